"""How networks are trained: the loop, the loss of the one distilled from, the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ModelConfig, Seed
from guard.config.schema import Config, above, at_least
from guard.errors import ConfigError

Augmentation = Literal["crop", "flip", "resized-crop", "dsa"]
DsaOp = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
DSA_OPS: tuple[DsaOp, ...] = ("color", "crop", "cutout", "flip", "scale", "rotate")


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(Config):
    """How the model that a set is distilled from is made robust: a penalty, or attacked images.

    curvature: λ·mean‖∇ℓ(x+hz) − ∇ℓ(x)‖^power, GUARD Eq. 15 at power 2 (arXiv 2403.10045).
    loss-difference: λ·mean|ℓ(x+hz) − ℓ(x)|^power, what GUARD's ImageNet-type code computes.
    gradient-norm: λ·mean‖∇ℓ(x)‖^power.
    adversarial: the loss of attacked images only (arXiv 1706.06083); λ is not used.
    trades: λ·KL(f(x) ‖ f(x')) at attacked images x' (arXiv 1901.08573).
    mart: misclassification-aware adversarial training (ICLR 2020, Wang et al.).
    """

    kind: Literal[
        "none", "curvature", "loss-difference", "gradient-norm", "adversarial", "trades", "mart"
    ] = "curvature"
    weight: Annotated[float, at_least(0)] = 0.1
    """λ. At 0 the model is trained without a penalty."""
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
    """BatchNorm inside the penalty: running statistics, as GUARD's and CURE's codes have it, this
    batch's as constants, or those of each pass. But for the last, the penalty pulls at the scale
    and the mean of what a BatchNorm gets. No training loss resists that, and the running statistics
    lag behind, so the model can be worse in evaluation mode than it was in training."""
    fraction: Annotated[float, above(0, at_most=1)] = 1.0
    """Share of each batch, drawn afresh, that the penalty is computed on: unbiased and cheaper."""
    weight_warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs over which λ rises linearly to its value."""
    h_warmup_epochs: Annotated[int, at_least(0)] = 0
    steps: Annotated[int, at_least(1)] = 7
    """Of the attack (adversarial, trades, mart): signed gradient ascent from a random start."""
    step_size: Annotated[float, above(0)] = 0.25
    """Of the attack, as a share of its radius."""
    eps: Annotated[float, above(0, at_most=1)] | None = None
    """L_inf radius of the attack, in pixels; None: that of the threat model."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "none": {"kind": "none", "weight": 0},
        "curvature": {},
        "loss-difference": {"kind": "loss-difference"},
        "gradient-norm": {"kind": "gradient-norm"},
        "pgd-at": {"kind": "adversarial"},
        "fgsm-rs": {"kind": "adversarial", "steps": 1, "step_size": 1.25},
        "trades": {"kind": "trades", "weight": 6, "steps": 10},
        "mart": {"kind": "mart", "weight": 5, "steps": 10},
        "guard-dc": {
            "kind": "loss-difference",
            "weight": 0.5,
            "power": 1,
            "scale": "batch-mean",
        },
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
        return self.kind == "adversarial" or (self.kind != "none" and self.weight > 0)

    @property
    def title(self) -> str:
        """What tables call it: "none", the name of the setting that it is, or its kind."""
        if not self.active:
            return "none"
        return next((name for name, own in _named() if own == self), self.kind)

    @property
    def attacks(self) -> bool:
        """Whether the loss is of attacked images; a penalty otherwise."""
        return self.kind in ("adversarial", "trades", "mart")

    @property
    def uses_threat_model(self) -> bool:
        return self.active and (self.eps is None if self.attacks else self.units == "eps")

    def fields_used(self) -> frozenset[str]:
        """The fields that this kind reads."""
        if self.kind == "none":
            return frozenset({"kind"})
        if self.attacks:
            weight = set() if self.kind == "adversarial" else {"weight", "weight_warmup_epochs"}
            return frozenset({"kind", "steps", "step_size", "eps"} | weight)
        common = {"kind", "weight", "power", "units", "scale", "bn", "fraction"}
        stepping = set() if self.kind == "gradient-norm" else {"h", "direction", "h_warmup_epochs"}
        return frozenset(common | stepping | {"weight_warmup_epochs"})


@cache
def _named() -> tuple[tuple[str, RegularizerConfig], ...]:
    return tuple((name, RegularizerConfig.named(name)) for name in RegularizerConfig.NAMED)


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
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """Learning rate by epoch; cosine falls to 0 after the last one, step to a tenth half way."""
    warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs of linear rise, from lr/100."""
    augment: tuple[Augmentation, ...] = ()
    """crop: shifts by up to size/8 with zero padding; resized-crop: `crop_scale` of the area; dsa:
    one operation of `dsa_ops` a batch, with parameters per image (arXiv 2102.08259)."""
    crop_scale: Annotated[float, above(0, at_most=1)] = 0.08
    """Smallest share of the area that resized-crop keeps."""
    dsa_ops: tuple[DsaOp, ...] = DSA_OPS

    def check(self) -> None:
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                "warmup_epochs", f"must be below epochs = {self.epochs}, got {self.warmup_epochs}"
            )
        if "dsa" in self.augment and not self.dsa_ops:
            raise ConfigError("dsa_ops", "must name an operation for augment = dsa")


CONDENSATION_STUDENT: Mapping[str, Any] = {"batch_size": 256, "lr": 0.01, "schedule": "step"}


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Config):
    """Natural training on the distilled set."""

    model: ModelConfig | None = None
    """None: the model that the set was distilled with."""
    seed: Seed = 0
    labels: Literal["auto", "soft", "hard"] = "auto"
    """soft: a teacher's logits for every augmented batch; for a method without a teacher one is
    trained as `squeeze` says. auto: soft where the method has a teacher or learns labels."""
    learned_lr: bool = False
    """Train at the learning rate that was distilled with the images (mtt, tesla, mat)."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=200, batch_size=50, optimizer="adamw", lr=1e-3, weight_decay=0.01
        )
    )
    temperature: Annotated[float, above(0)] = 20.0
    """T of KL(softmax(teacher/T) ‖ softmax(student/T)), with a teacher's logits."""
    scale_by_t2: bool = False
    """Multiply the loss by T², as in Hinton et al. (arXiv 1503.02531); FKD does not."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    mix_alpha: Annotated[float, above(0)] = 1.0
    """Both parameters of the Beta distribution that mixing draws from."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sre2l-imagenet": {
            "train": {
                "epochs": 300,
                "batch_size": 1024,
                "optimizer": "adamw",
                "lr": 1e-3,
                "weight_decay": 0.01,
                "augment": ("resized-crop", "flip"),
            },
            "mix": "cutmix",
        },
        "sre2l-tiny-imagenet": {
            "train": {
                "epochs": 100,
                "batch_size": 256,
                "lr": 0.2,
                "weight_decay": 1e-4,
                "warmup_epochs": 5,
                "augment": ("resized-crop", "flip"),
            },
            "scale_by_t2": True,
        },
        "sre2l-cifar": {
            "train": {
                "epochs": 400,
                "batch_size": 128,
                "optimizer": "adamw",
                "lr": 1e-3,
                "weight_decay": 0.01,
                "augment": ("crop", "flip"),
            },
            "temperature": 30,
            "mix": "mixup",
            "mix_alpha": 0.8,
        },
        "dc": {"train": {**CONDENSATION_STUDENT, "epochs": 300}},
        "dsa": {"train": {**CONDENSATION_STUDENT, "epochs": 1000, "augment": ("dsa",)}},
        "mtt": {
            "train": {**CONDENSATION_STUDENT, "epochs": 1000, "augment": ("dsa",)},
            "learned_lr": True,
        },
    }
    """The papers' recipes: SRe2L (arXiv 2306.13092) by data set, DC, DSA and MTT."""
