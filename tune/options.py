"""What a search takes beside its space. Nothing here imports Ray or Optuna."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from guard.config.rules import at_least
from guard.config.schema import Config

SamplerName = Literal["auto", "tpe", "tpe-group", "gp", "nsga2", "random", "grid"]

MAX_CLEAN_DROP = 0.03


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """How a search draws, and what it chooses in the end."""

    seed: Annotated[int, at_least(0, at_most=2**32 - 1)] = 0
    """Of the sampler; the trials have their own."""
    storage: str = ""
    """URL of Optuna's storage (`tune.storage`); "": optuna.db in the study's folder."""
    max_clean_drop: Annotated[float, at_least(0, at_most=1)] = MAX_CLEAN_DROP
    """Clean validation accuracy that the choice may lose to its baseline."""
    reduction: Annotated[float, at_least(1, at_most=100)] = 2.0
    """Of so many trials that have come to a rung, one goes on (the reduction factor of successive
    halving); 1: every trial goes to its end."""
    max_failures: Annotated[int, at_least(0)] = 10
    """Trials that may fail in a row before the search ends; 0: any number."""
