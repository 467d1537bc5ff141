"""What a preset is, and what several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from guard.config import ModelConfig
from guard.trial import TrialConfig
from tune.confirmation import Confirmation

TRAJECTORIES = ("mtt", "tesla", "mat", "datm")
DISTRIBUTIONS = ("dm", "idm", "ncfm", "rome", "c2r")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What `--preset` stands for."""

    config: TrialConfig
    """Its IPC is that of the studies that do not vary it."""
    space: Mapping[str, BaseDistribution]
    num_trials: int
    about: str
    confirm: Confirmation = field(default_factory=Confirmation)


def penalty_space(ipc: tuple[int, ...], h: tuple[float, float]) -> dict[str, BaseDistribution]:
    """IPC, and λ and h on a log scale, wide enough to reach teachers that collapse."""
    return {
        "ipc": CategoricalDistribution(ipc),
        "regularizer.weight": FloatDistribution(1e-3, 100, log=True),
        "regularizer.h": FloatDistribution(*h, log=True),
    }


def condensed_on(model: ModelConfig) -> dict[str, Any]:
    """Gradients, trajectories and mean features matched on the papers' ConvNet, whatever the
    trial's model."""
    sections = ("dc", "dsa", *TRAJECTORIES, *DISTRIBUTIONS)
    return {f"{name}.model": model.to_dict() for name in sections}
