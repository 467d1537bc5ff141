"""How networks are trained: the loop, and the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ModelConfig, Seed
from guard.config.rules import above, at_least
from guard.config.schema import LATER, Config
from guard.errors import ConfigError

Augmentation = Literal["crop", "flip", "resized-crop", "dsa"]
DsaOp = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
DSA_OPS: tuple[DsaOp, ...] = ("color", "crop", "cutout", "flip", "scale", "rotate")


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
    """SGD: on every parameter; AdamW: on tensors with more than one dimension, unless
    `decay_all`."""
    decay_all: bool = field(default=False, metadata=LATER)
    """AdamW: decay biases and the parameters of normalisation layers too."""
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
        """A warm-up that does not end, and dsa without operations. Raises ConfigError."""
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                "warmup_epochs", f"must be below epochs = {self.epochs}, got {self.warmup_epochs}"
            )
        if "dsa" in self.augment and not self.dsa_ops:
            raise ConfigError("dsa_ops", "must name an operation for augment = dsa")


@dataclass(frozen=True, kw_only=True)
class SqueezeConfig(TrainConfig):
    """Training on the real images, which several processes of one machine can share."""

    processes: Annotated[int, at_least(1, at_most=1024)] = field(default=1, metadata=LATER)
    """That share each batch, on CUDA with a GPU each, on a CPU with `compute.num_threads` each. The
    same batches, draws and gradients as by one process, up to rounding; since rounding changes
    bytes, the number is a part of the trial, as the device is."""
    batchnorm: Literal["synchronized", "local"] = field(default="synchronized", metadata=LATER)
    """Of several processes. synchronized: each pass is normalised by the statistics of the whole
    batch, as by one process. local: by those of a process's own images; the running ones are the
    processes' means."""

    def read_by(self, model: ModelConfig) -> SqueezeConfig:
        """Without what the training of this network does not depend on."""
        shares_statistics = self.processes > 1 and model.has_batchnorm
        return self if shares_statistics else replace(self, batchnorm=SqueezeConfig().batchnorm)

    def check(self) -> None:
        """More processes than images in a batch too. Raises ConfigError."""
        super().check()
        if self.processes > self.batch_size:
            raise ConfigError(
                "processes",
                f"must be at most batch_size = {self.batch_size}, got {self.processes}",
            )


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

    def batches_only(self) -> StudentConfig:
        """Without what the student's batches do not depend on: students that differ in that share
        their soft labels."""
        plain, loop = StudentConfig(), TrainConfig()
        return replace(
            self,
            model=plain.model,
            labels=plain.labels,
            learned_lr=plain.learned_lr,
            temperature=plain.temperature,
            scale_by_t2=plain.scale_by_t2,
            train=replace(
                self.train,
                optimizer=loop.optimizer,
                lr=loop.lr,
                momentum=loop.momentum,
                weight_decay=loop.weight_decay,
                decay_all=loop.decay_all,
                schedule=loop.schedule,
                warmup_epochs=loop.warmup_epochs,
            ),
        )

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
                "decay_all": True,
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
