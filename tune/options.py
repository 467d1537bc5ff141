"""What a search takes beside its space. Nothing here imports Ray or Optuna."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from guard.config.rules import at_least
from guard.config.schema import Config

SamplerName = Literal["auto", "tpe", "tpe-group", "gp", "nsga2", "random", "grid"]

MAX_CLEAN_DROP = 0.03


FEW_TRIALS = 20
"""Of so short a search every trial is wanted (`studies.samplers`)."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """How a search draws, and what it chooses in the end."""

    seed: Annotated[int, at_least(0, at_most=2**32 - 1)] = 0
    """Of the sampler; the trials have their own."""
    storage: str = ""
    """URL of Optuna's storage (`tune.storage`); "": optuna.db in the study's folder."""
    max_clean_drop: Annotated[float, at_least(0, at_most=1)] = MAX_CLEAN_DROP
    """Clean validation accuracy that the choice may lose to its baseline."""
    reduction: Annotated[float, at_least(1, at_most=100)] | None = None
    """Of so many trials that have come to a rung, one goes on (the reduction factor of successive
    halving, eta); 1: every trial goes to its end. None: 2, and 1 for less than `FEW_TRIALS`."""
    max_failures: Annotated[int, at_least(0)] = 10
    """Trials that may fail in a row before the search ends; 0: any number."""

    def reduction_of(self, num_trials: int) -> float:
        """Of a search of so many trials."""
        usual = 2.0 if num_trials >= FEW_TRIALS else 1.0
        return usual if self.reduction is None else self.reduction
