"""What every base method may read of a trial."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.training import SqueezeConfig


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The sections and values of a trial that no method owns."""

    method: str
    """Its name."""
    data: DataConfig
    model: ModelConfig
    squeeze: SqueezeConfig
    regularizer: RegularizerConfig
    eps: float
    """Radius of the threat model, in pixels."""
    ipc: int
    seed: int
    compute: ComputeConfig
    keeps: bool = False
    """Whether a network that is trained as `squeeze` says is kept as it is on the way, too."""

    @property
    def acting_regularizer(self) -> RegularizerConfig:
        """What a stage depends on: fields that its kind does not read say nothing, and λ = 0 is the
        stage without a penalty."""
        return self.regularizer.as_read()

    def radius(self, *regularizers: RegularizerConfig) -> float:
        """eps of the threat model where one of the regularizers depends on it; 0 elsewhere."""
        return self.eps if any(own.uses_threat_model for own in regularizers) else 0.0

    def unregularized(self) -> Shared:
        """The same without a regularizer."""
        return replace(self, regularizer=RegularizerConfig.named("none"))
