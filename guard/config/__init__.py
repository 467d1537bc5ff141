"""What a trial is: frozen sections that say everything its result depends on.

No section knows how its work is done, and nothing here imports torch, so a coordinator that only
plans stages stays small.
"""

from guard.config.common import (
    ComputeConfig,
    DataConfig,
    DatasetName,
    ModelConfig,
    Seed,
)
from guard.config.evaluation import EvaluationConfig, expanded, passes_of, radius_text, reported
from guard.config.methods import (
    CDAConfig,
    DCConfig,
    DSAConfig,
    ExpertConfig,
    MATConfig,
    MTTConfig,
    RecoverConfig,
    TESLAConfig,
    expert_training,
)
from guard.config.training import (
    DSA_OPS,
    Augmentation,
    DsaOp,
    RegularizerConfig,
    StudentConfig,
    TrainConfig,
)
from guard.config.trial import MethodName, TrialConfig

__all__ = [
    "DSA_OPS",
    "Augmentation",
    "CDAConfig",
    "ComputeConfig",
    "DCConfig",
    "DSAConfig",
    "DataConfig",
    "DatasetName",
    "DsaOp",
    "EvaluationConfig",
    "ExpertConfig",
    "MATConfig",
    "MTTConfig",
    "MethodName",
    "ModelConfig",
    "RecoverConfig",
    "RegularizerConfig",
    "Seed",
    "StudentConfig",
    "TESLAConfig",
    "TrainConfig",
    "TrialConfig",
    "expanded",
    "expert_training",
    "passes_of",
    "radius_text",
    "reported",
]
