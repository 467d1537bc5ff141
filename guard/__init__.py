"""GUARD dataset distillation as a plain PyTorch library: no Ray, Optuna or MLflow.

Importing the package loads no torch; each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from guard.artifacts import Artifact, ArtifactStore
from guard.errors import ConfigError, DataError, UserError
from guard.pipeline import TrialResult, local_runner, run_trial
from guard.stage import Stage
from guard.trial import TrialConfig

if TYPE_CHECKING:
    from guard.data.datasets import load_data, resolve
    from guard.distilled import DistilledSet
    from guard.models.networks import build_model
    from guard.models.saving import load_model
    from guard.training.penalties import Regularizer

_NEEDS_TORCH = {
    "DistilledSet": "guard.distilled",
    "Regularizer": "guard.training.penalties",
    "build_model": "guard.models.networks",
    "load_data": "guard.data.datasets",
    "load_model": "guard.models.saving",
    "resolve": "guard.data.datasets",
}

__all__ = [
    "Artifact",
    "ArtifactStore",
    "ConfigError",
    "DataError",
    "DistilledSet",
    "Regularizer",
    "Stage",
    "TrialConfig",
    "TrialResult",
    "UserError",
    "build_model",
    "load_data",
    "load_model",
    "local_runner",
    "resolve",
    "run_trial",
]


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
