"""Sections that say what a trial's result depends on, each with the rules of its fields.

No section knows how its work is done, and nothing here imports torch, so a coordinator that only
plans stages stays small. The methods' own sections are in `guard.methods`, the whole of a trial in
`guard.trial`.
"""

from guard.config.common import ComputeConfig, ModelConfig, Seed
from guard.config.data import DATASETS, DataConfig
from guard.config.evaluation import EvaluationConfig, expanded, passes_of, radius_text, reported
from guard.config.labels import LabelConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.shared import Shared
from guard.config.training import (
    DSA_OPS,
    Augmentation,
    DsaOp,
    SqueezeConfig,
    StudentConfig,
    TrainConfig,
)

__all__ = [
    "DATASETS",
    "DSA_OPS",
    "Augmentation",
    "ComputeConfig",
    "DataConfig",
    "DsaOp",
    "EvaluationConfig",
    "LabelConfig",
    "ModelConfig",
    "RegularizerConfig",
    "Seed",
    "Shared",
    "SqueezeConfig",
    "StudentConfig",
    "TrainConfig",
    "expanded",
    "passes_of",
    "radius_text",
    "reported",
]
