"""How networks are trained: the loop, and the student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ModelConfig, Seed
from guard.config.recipes import STUDENT_RECIPES
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import above, at_least
from guard.config.schema import LATER, Config
from guard.errors import ConfigError

Augmentation = Literal["crop", "flip", "resized-crop", "dsa", "shuffle"]
DsaOp = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
Labels = Literal["auto", "soft", "hard", "own", "fixed", "budget"]
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
    schedule: Literal["cosine", "constant", "step", "half-cosine"] = "cosine"
    """Learning rate by epoch; cosine falls to 0 after the last one, step to a tenth half way,
    half-cosine to a half after the last (a cosine stretched twofold, as RDED and EDC have it)."""
    warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs of linear rise, from lr/100."""
    augment: tuple[Augmentation, ...] = ()
    """crop: shifts by up to size/8 with zero padding; resized-crop: `crop_scale` of the area; dsa:
    one operation of `dsa_ops` a batch, with parameters per image (arXiv 2102.08259); shuffle: an
    image's rows and columns of patches in a new order (RDED, arXiv 2312.03526), before the others,
    but after a resized-crop of real images."""
    crop_scale: Annotated[float, above(0, at_most=1)] = 0.08
    """Smallest share of the area that resized-crop keeps."""
    dsa_ops: tuple[DsaOp, ...] = DSA_OPS
    shuffle_patches: Annotated[int, at_least(2)] = field(default=2, metadata=LATER)
    """k of shuffle: an image is k rows of k patches, as equal as its pixels let them be."""

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


TAUGHT = ("soft", "fixed", "budget")
"""Kinds of labels that a teacher gives."""
PORTABLE = ("fixed", "budget")
"""Those that lie in the distilled set."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig(Config):
    """Training on the distilled set, natural unless its own regularizer says otherwise."""

    model: ModelConfig | None = None
    """None: the model that the set was distilled with."""
    seed: Seed = 0
    labels: Labels = "auto"
    """soft: a teacher's logits for every augmented batch of every epoch (arXiv 2112.01528); for a
    method without a teacher one is trained as `squeeze` says. fixed: its logits for each image as
    it is. budget: those of `budget` augmented batches, used again and again. hard: the classes.
    own: the labels that were learned with the images. auto: soft where the method has a teacher,
    else own where it learns labels, else hard."""
    budget: Annotated[int, at_least(1)] = field(default=100, metadata=LATER)
    """Batches of labels = budget, drawn once."""
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
    loss: Literal["kl", "mse", "cosine"] = field(default="kl", metadata=LATER)
    """Of a teacher's logits. kl: see `temperature`. mse: squared difference of logits, and γ times
    the cross-entropy of the classes (EDC, arXiv 2404.13733). cosine: 1 less the cosine of the
    student's logits and a mean of class and teacher's probabilities (GIFT, arXiv 2405.14736)."""
    hard_weight: Annotated[float, at_least(0)] | None = field(default=None, metadata=LATER)
    """Of the classes: γ of their cross-entropy beside kl and mse, the share w of cosine; null: as
    published, 0, 0.025 and 0.1."""
    hard_epochs: Annotated[int, at_least(0)] = field(default=0, metadata=LATER)
    """Epochs in the middle of the training that are of the classes instead of a teacher's logits:
    soft, hard, soft (HALD, arXiv 2512.15647). Their batches are augmented like the others, but not
    mixed, and never those of a pool; their loss is the cross-entropy."""
    hard_smoothing: Annotated[float, at_least(0, at_most=1)] = field(default=0.8, metadata=LATER)
    """Share of the uniform distribution in the labels of these epochs."""
    ema: Annotated[float, at_least(0, at_most=0.99999)] = field(default=0.0, metadata=LATER)
    """The student is a moving average of its weights: a·average + (1−a)·weights after each step,
    with this a; 0: none."""
    regularizer: RegularizerConfig = field(
        default_factory=lambda: RegularizerConfig(kind="none", weight=0), metadata=LATER
    )
    """Makes the student itself robust: on its own batches and labels, at the threat model's
    radius."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    mix_alpha: Annotated[float, above(0)] = 1.0
    """Both parameters of the Beta distribution that mixing draws from."""

    def check(self) -> None:
        """A share above 1, robust soft label distillation without a teacher's logits to be near
        to, hard epochs alone, and attacks that go on. Raises ConfigError."""
        self.regularizer.check_forgets("regularizer", "a student's images, augmented and mixed,")
        if self.loss == "cosine" and self.hard_share > 1:
            raise ConfigError("hard_weight", f"is a share of cosine, got {self.hard_share}")
        if self.regularizer.facts.needs_teacher and self.labels in ("hard", "own"):
            raise ConfigError(
                "regularizer.kind",
                f"{self.regularizer.kind} stays near a teacher's logits, so it needs labels = "
                f"{', '.join(TAUGHT)}; got {self.labels}",
            )
        if self.hard_epochs >= self.train.epochs:
            raise ConfigError(
                "hard_epochs",
                f"must be below train.epochs = {self.train.epochs}, got {self.hard_epochs}",
            )
        if self.hard_epochs and self.regularizer.facts.needs_teacher:
            raise ConfigError(
                "hard_epochs",
                f"have no teacher's logits for {self.regularizer.kind} to stay near to: must be 0, "
                f"got {self.hard_epochs}",
            )

    @property
    def soft_epochs(self) -> int:
        """Of a teacher's logits, where one labels."""
        return self.train.epochs - self.hard_epochs

    def phase(self, epoch: int) -> tuple[bool, int]:
        """Whether an epoch of the training (from 0) is a hard one, and the number of its batches:
        soft ones count from 0, hard ones go on after the last of these."""
        begin = self.soft_epochs // 2
        if epoch < begin:
            return False, epoch
        if epoch < begin + self.hard_epochs:
            return True, self.soft_epochs + epoch - begin
        return False, epoch - self.hard_epochs

    @property
    def hard_share(self) -> float:
        """The weight of the classes."""
        published = {"kl": 0.0, "mse": 0.025, "cosine": 0.1}
        return published[self.loss] if self.hard_weight is None else self.hard_weight

    def batches_only(self) -> StudentConfig:
        """Without what the student's batches do not depend on: students that differ in that share
        their soft labels."""
        plain, loop = StudentConfig(), TrainConfig()
        return replace(
            self,
            model=plain.model,
            labels=plain.labels,
            budget=plain.budget,
            learned_lr=plain.learned_lr,
            temperature=plain.temperature,
            scale_by_t2=plain.scale_by_t2,
            loss=plain.loss,
            hard_weight=plain.hard_weight,
            hard_epochs=plain.hard_epochs,
            hard_smoothing=plain.hard_smoothing,
            ema=plain.ema,
            regularizer=plain.regularizer,
            train=replace(
                self.train,
                epochs=self.soft_epochs,
                optimizer=loop.optimizer,
                lr=loop.lr,
                momentum=loop.momentum,
                weight_decay=loop.weight_decay,
                decay_all=loop.decay_all,
                schedule=loop.schedule,
                warmup_epochs=loop.warmup_epochs,
            ),
        )

    def portable_only(self) -> StudentConfig:
        """What labels that lie in the distilled set depend on: of a pool its batches, whatever the
        number of epochs; of fixed ones the size of a batch that the teacher may see together."""
        kept, plain = self.batches_only(), StudentConfig()
        if self.labels == "fixed":
            loop = replace(plain.train, batch_size=self.train.batch_size)
            return replace(plain, labels=self.labels, train=loop)
        loop = replace(kept.train, epochs=plain.train.epochs)
        return replace(kept, labels=self.labels, budget=self.budget, train=loop)

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = STUDENT_RECIPES
