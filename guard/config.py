"""What a trial is: frozen sections that say everything its result depends on.

No section knows how its work is done, and nothing here imports torch, so a coordinator that only
plans stages stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from guard.errors import ConfigError
from guard.schema import Config, above, at_least, digest

DatasetName = Literal[
    "digits",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "imagenette",
    "tiny-imagenet",
    "imagenet",
    "folder",
    "npz",
]
MethodName = Literal["sre2l"]
Augmentation = Literal["crop", "flip", "resized-crop"]
Seed = Annotated[int, at_least(0)]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images, and how they are split."""

    name: DatasetName = "digits"
    path: str = ""
    """A folder or an .npz file; empty: scikit-learn's or torchvision's own copy."""
    image_size: Annotated[int, at_least(0)] = 0
    """Side in pixels that images are resized to; 0: as the data set has them."""
    validation_fraction: Annotated[float, above(0, at_most=0.9)] = 0.1
    """Share of each class's training images that the search selects on."""
    split_seed: Seed = 0
    max_tensor_gib: Annotated[float, at_least(0)] = 1.2
    """Sets up to this size live as tensors on the device; larger ones stream from disk."""
    sha256: str = ""
    """Content of the data, filled in when a study starts; a stage refuses other content."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A network. Its first layer is always the normalisation of the data set."""

    name: Literal["convnet", "bn-convnet", "resnet18"] = "bn-convnet"
    width: Annotated[int, at_least(1)] = 32
    """Channels of the first block (convnet, bn-convnet)."""
    depth: Annotated[int, at_least(1)] = 4
    """Convolutions (convnet, bn-convnet)."""
    norm: Literal["instance", "batch", "group", "layer", "none"] = "instance"
    """Normalisation layers of convnet (DC and MTT use instance)."""
    stem: Literal["auto", "32", "64", "224", "tiny-224"] = "auto"
    """ResNet-18's first layers by image side; tiny-224 is GUARD's Tiny ImageNet stem at 224 px."""

    @property
    def has_batchnorm(self) -> bool:
        return self.name != "convnet" or self.norm == "batch"


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(Config):
    """The penalty added to the loss of the model that a set is distilled from.

    curvature: λ·mean‖∇ℓ(x+hz) − ∇ℓ(x)‖^power, GUARD Eq. 15 at power 2 (arXiv 2403.10045).
    loss-difference: λ·mean|ℓ(x+hz) − ℓ(x)|^power, what GUARD's ImageNet-type code computes.
    gradient-norm: λ·mean‖∇ℓ(x)‖^power.
    """

    kind: Literal["none", "curvature", "loss-difference", "gradient-norm"] = "curvature"
    weight: Annotated[float, at_least(0)] = 0.1
    """λ. At 0 the stage is the unregularized one."""
    h: Annotated[float, above(0)] = 0.1
    """L2 length of the step along z, in `units`."""
    units: Literal["pixel", "normalized", "eps"] = "pixel"
    """pixel: L2 in [0, 1] pixels. normalized: L2 after the input normalisation, gradients too (the
    papers' codes). eps: h times eps·sqrt(D) of the threat model, in pixels."""
    power: Annotated[int, at_least(1, at_most=2)] = 2
    direction: Literal["gradient", "sign", "released"] = "gradient"
    """z: unit gradient, unit-L2 sign of the gradient (CURE), or GUARD's released code, which adds
    1e-7 to every element and to the norm."""
    scale: Literal["per-sample", "batch-mean"] = "per-sample"
    """batch-mean: gradients of the batch-mean loss, 1/B of a sample's (GUARD's released code)."""
    bn: Literal["eval", "frozen-batch", "train"] = "eval"
    """BatchNorm inside the penalty: running statistics, this batch's as constants, or training."""
    fraction: Annotated[float, above(0, at_most=1)] = 1.0
    """Share of each batch, drawn afresh, that the penalty is computed on: unbiased and cheaper."""
    weight_warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs over which λ rises linearly to its value."""
    h_warmup_epochs: Annotated[int, at_least(0)] = 0

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "none": {"kind": "none", "weight": 0},
        "curvature": {},
        "loss-difference": {"kind": "loss-difference"},
        "gradient-norm": {"kind": "gradient-norm"},
        "paper-eq15": {"weight": 100, "h": 3, "units": "normalized"},
        "released-cifar": {
            "weight": 100,
            "h": 3,
            "units": "normalized",
            "power": 1,
            "direction": "released",
            "scale": "batch-mean",
        },
        "released-imagenet": {
            "kind": "loss-difference",
            "weight": 1e-4,
            "h": 3,
            "units": "normalized",
            "power": 1,
            "direction": "released",
            "scale": "batch-mean",
        },
        "cure": {
            "weight": 4,
            "h": 3,
            "units": "normalized",
            "power": 1,
            "direction": "sign",
            "h_warmup_epochs": 5,
        },
    }

    @property
    def active(self) -> bool:
        return self.kind != "none" and self.weight > 0

    def fields_used(self) -> frozenset[str]:
        """The fields that this kind of penalty reads."""
        common = {"kind", "weight", "power", "units", "scale", "bn", "fraction"}
        stepping = {"h", "direction", "h_warmup_epochs"}
        return {
            "none": frozenset({"kind"}),
            "gradient-norm": frozenset(common | {"weight_warmup_epochs"}),
        }.get(self.kind, frozenset(common | stepping | {"weight_warmup_epochs"}))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One supervised run."""

    epochs: Annotated[int, at_least(1)] = 20
    batch_size: Annotated[int, at_least(1)] = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, above(0)] = 0.1
    momentum: Annotated[float, at_least(0, at_most=1)] = 0.9
    """SGD only."""
    weight_decay: Annotated[float, at_least(0)] = 5e-4
    """SGD: on every parameter; AdamW: on tensors with more than one dimension."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate by epoch; cosine falls to 0 after the last one."""
    warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs of linear rise, from lr/100."""
    augment: tuple[Augmentation, ...] = ()
    """crop: shifts by up to size/8 with zero padding; resized-crop: `crop_scale` of the area."""
    crop_scale: Annotated[float, above(0, at_most=1)] = 0.08
    """Smallest share of the area that resized-crop keeps."""

    def check(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                "warmup_epochs", f"must be below epochs = {self.epochs}, got {self.warmup_epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class SRe2LConfig(Config):
    """Recover of SRe2L (arXiv 2306.13092): images from noise by label loss + BN-statistics loss."""

    iterations: Annotated[int, at_least(1)] = 300
    lr: Annotated[float, above(0)] = 0.25
    """Adam, betas (0.5, 0.9), cosine to 0, in units of the normalised input."""
    bn_weight: Annotated[float, at_least(0)] = 0.01
    """r_bn."""
    first_bn_multiplier: Annotated[float, at_least(0)] = 10.0
    jitter: Annotated[int, at_least(0)] = 0
    """Largest roll in pixels, drawn from 0..jitter per axis and step."""
    crop: Literal["none", "batch", "image"] = "none"
    """Random resized crop each step: none, one window for the batch (published), one an image."""
    crop_scale: Annotated[float, above(0, at_most=1)] = 0.08
    flip: bool = False
    chunk: Annotated[int, at_least(1)] = 1
    """Images per class that are recovered together, and share BN statistics; a set of any IPC is a
    prefix of the chunks. The papers' value is 1."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Config):
    """Natural training on the distilled set, with the teacher's soft labels where there is one."""

    model: ModelConfig | None = None
    """None: the model that the set was distilled with."""
    seed: Seed = 0
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=200, batch_size=50, optimizer="adamw", lr=1e-3, weight_decay=0.01
        )
    )
    temperature: Annotated[float, above(0)] = 20.0
    """T of KL(softmax(teacher/T) ‖ softmax(student/T))."""
    scale_by_t2: bool = False
    """Multiply the loss by T², as in Hinton et al. (arXiv 1503.02531); FKD does not."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    mix_alpha: Annotated[float, above(0)] = 1.0
    """Both parameters of the Beta distribution that mixing draws from."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """The threat model (L_inf, pixels in [0, 1]) and the attacks of the suite."""

    eps: Annotated[float, at_least(0, at_most=1)] = 1 / 255
    """Radius of the L_inf ball, in pixels."""
    attacks: tuple[str, ...] = ("pgd20",)
    """pgd<k>, mim, cw (L2, not bounded by eps), square, autoattack."""
    seed: Seed = 0
    batch_size: Annotated[int, at_least(1)] = 500
    max_samples: Annotated[int, at_least(1)] | None = None
    """Evaluate on so many images, drawn by `seed`; None: on all."""

    def check(self) -> None:
        for position, attack in enumerate(self.attacks):
            if not is_attack(attack):
                raise ConfigError(
                    f"attacks[{position}]",
                    f"no attack is named {attack!r}; there are: pgd<steps>, {', '.join(ATTACKS)}",
                )
        if not self.attacks:
            raise ConfigError("attacks", "must name at least one attack")
        if len(set(self.attacks)) < len(self.attacks):
            raise ConfigError("attacks", f"must be distinct, got {', '.join(self.attacks)}")


ATTACKS = ("mim", "cw", "square", "autoattack")


def is_attack(name: str) -> bool:
    steps = name.removeprefix("pgd")
    return name in ATTACKS or (
        name.startswith("pgd") and steps.isascii() and steps.isdigit() and int(steps) > 0
    )


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Config):
    """Where stages run. Part of a trial: float sums depend on the device and on the threads."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    num_threads: Annotated[int, at_least(1)] = 1
    """CPU threads of one stage."""
    tf32: bool = False
    """Let CUDA matrix products and convolutions round to TF32."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Config):
    """Everything that a trial's result depends on."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodName = "sre2l"
    ipc: Annotated[int, at_least(1)] = 10
    """Images per class."""
    seed: Seed = 0
    """Of the teacher and of the distillation; the student and the attacks have their own."""
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    squeeze: TrainConfig = field(default_factory=TrainConfig)
    """Training of the teacher (SRe2L)."""
    sre2l: SRe2LConfig = field(default_factory=SRe2LConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def check(self) -> None:
        if self.method == "sre2l" and not self.model.has_batchnorm:
            raise ConfigError(
                "model.norm",
                f"{self.method} matches BatchNorm statistics, so it needs 'batch', "
                f"got {self.model.norm!r}",
            )

    def fingerprint(self) -> str:
        """As of any config, but data with a known content is named by it, wherever it lies."""
        values = self.to_dict()
        if self.data.sha256:
            values["data"]["path"] = ""
        return digest(values)[:16]

    @property
    def student_model(self) -> ModelConfig:
        return self.student.model or self.model

    def unregularized(self) -> TrialConfig:
        """The control: the same trial without the penalty."""
        return self.override({"regularizer": "none"})
