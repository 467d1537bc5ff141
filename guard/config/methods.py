"""Hyper-parameters of the base methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ModelConfig
from guard.config.schema import Config, above, at_least
from guard.config.training import DSA_OPS, DsaOp, RegularizerConfig, TrainConfig
from guard.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RecoverConfig(Config):
    """Recover of SRe2L (arXiv 2306.13092): images from noise by label loss + BN-statistics loss."""

    iterations: Annotated[int, at_least(1)] = 300
    lr: Annotated[float, above(0)] = 0.25
    """Adam, betas (0.5, 0.9), cosine to 0, in units of the normalised input."""
    bn_weight: Annotated[float, at_least(0)] = 0.01
    """r_bn."""
    first_bn_multiplier: Annotated[float, at_least(0)] = 10.0
    jitter: Annotated[int, at_least(0)] = 0
    """Largest roll in pixels, drawn from 0..jitter per axis and step."""
    two_sided_jitter: bool = False
    """Draw the roll from -jitter..jitter (SRe2L on Tiny ImageNet)."""
    crop: Literal["none", "batch", "image"] = "none"
    """Random resized crop each step: none, one window for the batch (published), one an image."""
    crop_scale: Annotated[float, above(0, at_most=1)] = 0.08
    """Smallest share of the area that a crop keeps."""
    curriculum: Literal["none", "cosine", "linear", "step"] = "none"
    """How the smallest share falls from 1 to `crop_scale` (CDA); none: it is `crop_scale`."""
    milestone: Annotated[float, at_least(0, at_most=1)] = 1.0
    """Share of the iterations after which the curriculum has ended; 0 turns it off."""
    flip: bool = False
    chunk: Annotated[int, at_least(1)] = 1
    """Images per class that are recovered together, and share BN statistics; a set of any IPC is a
    prefix of the chunks. The papers' value is 1."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "imagenet": {
            "iterations": 4000,
            "jitter": 32,
            "crop": "batch",
            "flip": True,
        },
        "tiny-imagenet": {
            "iterations": 4000,
            "lr": 0.1,
            "bn_weight": 1.0,
            "jitter": 4,
            "two_sided_jitter": True,
            "crop": "batch",
            "flip": True,
        },
        "cifar": {"iterations": 1000, "jitter": 4},
    }
    """SRe2L's settings by data set."""

    def check(self) -> None:
        if self.curriculum != "none" and self.crop == "none":
            raise ConfigError("curriculum", "needs crop = image or batch, got crop = none")


@dataclass(frozen=True, kw_only=True)
class CDAConfig(RecoverConfig):
    """Recover of CDA (arXiv 2311.18838): crops that start easy, whole images, and get harder."""

    crop: Literal["none", "batch", "image"] = "image"
    curriculum: Literal["none", "cosine", "linear", "step"] = "cosine"
    flip: bool = True

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "imagenet": {"iterations": 4000, "jitter": 32, "crop": "batch"},
        "tiny-imagenet": {
            "iterations": 4000,
            "lr": 0.4,
            "bn_weight": 0.05,
            "jitter": 4,
            "crop": "batch",
        },
        "cifar": {"iterations": 1000, "jitter": 4, "crop": "batch", "crop_scale": 0.4},
    }
    """CDA's settings by data set."""


@dataclass(frozen=True, kw_only=True)
class DCConfig(Config):
    """Gradient matching of DC (arXiv 2006.05929)."""

    model: ModelConfig | None = None
    """The networks that gradients are matched on; None: the trial's model."""
    iterations: Annotated[int, at_least(1)] = 1000
    """Fresh networks, one after another."""
    outer_loops: Annotated[int, at_least(1)] | None = None
    """Matching steps a network; None: as published for the IPC (1: 1, 10: 10, 50: 50)."""
    inner_epochs: Annotated[int, at_least(0)] | None = None
    """Epochs that the network trains on the set between two matching steps; None: as published
    (10: 50, 20: 25, 30: 20, 40: 15, 50: 10)."""
    batch_size: Annotated[int, at_least(1)] = 256
    """Real images a class and matching step; a smaller class gives all it has."""
    inner_batch_size: Annotated[int, at_least(1)] = 256
    lr_images: Annotated[float, above(0)] = 0.1
    """SGD with `momentum`, in units of the network's input layer."""
    momentum: Annotated[float, at_least(0, at_most=1)] = 0.5
    lr_network: Annotated[float, above(0)] = 0.01
    """SGD of the inner training, without momentum and weight decay."""
    init: Literal["noise", "real"] = "noise"
    distance: Literal["layerwise", "cosine", "squared"] = "layerwise"
    """layerwise: 1 − cosine of each output unit's gradient, summed (DC). cosine: of all gradients
    as one vector. squared: ‖difference‖²."""
    augment: tuple[DsaOp, ...] = ()
    """Siamese operations: one a matching step and class, the same for real and synthetic images."""
    classes_at_once: Annotated[int, at_least(1)] | None = None
    """Classes whose gradients are computed together; 1 is a plain loop; None: 1 on a CPU, up to 20
    elsewhere."""


@dataclass(frozen=True, kw_only=True)
class DSAConfig(DCConfig):
    """DC with siamese augmentation and real images to start from (DSA, arXiv 2102.08259)."""

    init: Literal["noise", "real"] = "real"
    augment: tuple[DsaOp, ...] = DSA_OPS


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
        if self.adversary.kind != "none" and not self.adversary.attacks:
            raise ConfigError(
                "adversary.kind",
                f"must be one of none, adversarial, trades, mart; got {self.adversary.kind!r}",
            )


@dataclass(frozen=True, kw_only=True)
class MTTConfig(Config):
    """Trajectory matching of MTT (arXiv 2203.11932)."""

    model: ModelConfig | None = None
    """The network of experts and students; None: the trial's model."""
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    iterations: Annotated[int, at_least(1)] = 5000
    student_steps: Annotated[int, at_least(1)] = 30
    """N, steps on the synthetic images."""
    expert_epochs: Annotated[int, at_least(1)] = 2
    """M, epochs of the expert that N steps should reach."""
    max_start: Annotated[int, at_least(1)] = 20
    """Trajectories start at an epoch of 0..max_start − 1."""
    batch_size: Annotated[int, at_least(1)] | None = None
    """Synthetic images a student step; None: all."""
    lr_images: Annotated[float, above(0)] = 100.0
    """SGD with momentum 0.5, in units of the network's input layer."""
    lr_rate: Annotated[float, at_least(0)] = 1e-5
    """Of the student's learning rate α, itself learned."""
    rate: Annotated[float, above(0)] = 0.01
    """α at the start."""
    init: Literal["noise", "real"] = "real"
    augment: tuple[DsaOp, ...] = DSA_OPS
    gradient: Literal["unroll", "adjoint", "tesla"] = "adjoint"
    """unroll: through all student steps at once. adjoint: the same gradient with the graph of one
    step in memory. tesla: the approximation of arXiv 2211.10586, which drops dθ_i/dx."""
    published_half: bool = False
    """tesla as released: half of its gradient (a factor 2 is lost)."""
    soft_labels: bool = False
    """Labels are the target expert's probabilities for the current images (TESLA)."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        f"{data}-{ipc}": {
            "student_steps": steps,
            "expert_epochs": epochs,
            "max_start": start,
            "lr_images": lr_images,
            "lr_rate": lr_rate,
            "rate": rate,
            "batch_size": batch_size,
        }
        for data, ipc, steps, epochs, start, lr_images, lr_rate, rate, batch_size in (
            ("cifar10", 1, 50, 2, 2, 1e2, 1e-7, 0.01, None),
            ("cifar10", 10, 30, 2, 20, 1e2, 1e-5, 0.001, None),
            ("cifar10", 50, 30, 2, 40, 1e3, 1e-5, 0.001, None),
            ("cifar100", 1, 20, 3, 20, 1e3, 1e-5, 0.01, None),
            ("cifar100", 10, 20, 2, 20, 1e3, 1e-5, 0.01, None),
            ("cifar100", 50, 80, 2, 40, 1e3, 1e-5, 0.01, 125),
            ("tiny-imagenet", 1, 10, 2, 10, 1e4, 1e-4, 0.01, None),
            ("tiny-imagenet", 10, 20, 2, 40, 1e4, 1e-4, 0.01, 200),
            ("tiny-imagenet", 50, 20, 2, 40, 1e4, 1e-4, 0.01, 300),
        )
    }
    """MTT's settings by data set and IPC (those of CIFAR with `model.input` = zca, except at
    cifar10-50 and cifar100-10)."""

    @property
    def epochs_needed(self) -> int:
        """Epochs that an expert must have for the latest trajectory."""
        return self.max_start - 1 + self.expert_epochs

    def check(self) -> None:
        needed = self.epochs_needed
        if needed > self.experts.train.epochs:
            raise ConfigError(
                "experts.train.epochs",
                f"a trajectory of {self.expert_epochs} epochs that starts at epoch "
                f"{self.max_start - 1} needs at least {needed}, got {self.experts.train.epochs}",
            )
        if self.published_half and self.gradient != "tesla":
            raise ConfigError(
                "published_half", f"is of gradient = tesla only, got gradient = {self.gradient}"
            )


@dataclass(frozen=True, kw_only=True)
class TESLAConfig(MTTConfig):
    """MTT with TESLA's gradient and soft labels (arXiv 2211.10586)."""

    gradient: Literal["unroll", "adjoint", "tesla"] = "tesla"
    soft_labels: bool = True
    iterations: Annotated[int, at_least(1)] = 10000

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}


def adversarial_experts() -> ExpertConfig:
    """Our choice where arXiv 2503.12069 has no public code: PGD-7 at the threat model's radius and
    a moving average with a = 0.999 a step."""
    return ExpertConfig(ema=0.999, adversary=RegularizerConfig.named("pgd-at"))


@dataclass(frozen=True, kw_only=True)
class MATConfig(MTTConfig):
    """MTT on adversarially trained, smoothed experts (arXiv 2503.12069). The paper's constants are
    not public; those of `adversarial_experts` are ours."""

    experts: ExpertConfig = field(default_factory=adversarial_experts)

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
