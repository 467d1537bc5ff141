"""The networks whose trajectories are matched: how they are trained, and their stage. Its work is
in `snapshots.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import at_least
from guard.config.schema import Config
from guard.config.training import TrainConfig
from guard.errors import ConfigError
from guard.stage import Sizes
from guard.stages import PLAIN_STEP, Trained, Whitening, mended_batches, mended_passes

AVERAGED = "statistics of an averaged network"
"""What `mended` names."""


@dataclass(frozen=True, kw_only=True)
class Expert(Trained):
    """A network trained on the real images, with a snapshot of each epoch."""

    name, version, work = "expert", 1, "guard.methods.mtt.snapshots:train_expert"
    whitening: Whitening | None
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    ema: float
    adversary: RegularizerConfig
    regularizer: RegularizerConfig
    eps: float
    number: int
    seed: int
    compute: ComputeConfig

    @property
    def mended(self) -> tuple[str, ...]:
        passes = mended_passes(self.regularizer, self.adversary)
        averaged = (AVERAGED,) if self.ema and self.model.has_batchnorm else ()
        return mended_batches(self.train, self.whitening) + passes + averaged

    def passes(self, sizes: Sizes) -> float:
        step = PLAIN_STEP + self.regularizer.passes + self.adversary.passes
        return sizes.train * self.train.epochs * step


def expert_training() -> TrainConfig:
    """MTT's: 50 epochs of plain SGD with DSA augmentation."""
    return TrainConfig(
        epochs=50,
        batch_size=256,
        lr=0.01,
        momentum=0,
        weight_decay=0,
        schedule="constant",
        augment=("dsa",),
    )


@dataclass(frozen=True, kw_only=True)
class ExpertConfig(Config):
    """Networks trained on the real images whose trajectories are matched."""

    count: Annotated[int, at_least(1)] = 100
    train: TrainConfig = field(default_factory=expert_training)
    ema: Annotated[float, at_least(0, at_most=0.99999)] = 0.0
    """a of w ← a·w + (1 − a)·θ after each step; w is what is stored. 0: θ itself."""
    adversary: RegularizerConfig = field(default_factory=lambda: RegularizerConfig.named("none"))
    """Adversarial training of the experts, under any penalty of the trial (MAT)."""

    def check(self) -> None:
        """An adversary that attacks nothing, and what it keeps. Raises ConfigError."""
        self.adversary.check_augment("train.augment", self.train.augment)
        own = self.adversary.facts
        if self.adversary.kind != "none" and (not own.attacks or own.needs_teacher):
            raise ConfigError(
                "adversary.kind",
                f"must be one of none, adversarial, trades, mart; got {self.adversary.kind!r}",
            )


def adversarial_experts() -> ExpertConfig:
    """Our choice where arXiv 2503.12069 has no public code: PGD-7 at the threat model's radius and
    a moving average with a = 0.999 a step."""
    return ExpertConfig(ema=0.999, adversary=RegularizerConfig.named("pgd-at"))
