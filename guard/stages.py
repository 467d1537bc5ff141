"""The stages that all base methods share, from a network trained on real images to the student."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.schema import LATER, field_names
from guard.config.shared import Shared
from guard.config.training import SqueezeConfig, StudentConfig, TrainConfig
from guard.stage import Sizes, Stage, mended_where

LOOKS = (0.5,)
"""Shares of a squeeze's epochs after which its network may be looked at, and its state is kept. On
digits the robust accuracy of the averaged network after a half ranks configurations as their
students' does (Spearman 0.57 to 0.67, of the whole training 0.66 to 0.95); after a quarter less
(0.37 to 0.54), and of the network as it is then not at all (`python -m studies.samplers`)."""
PLAIN_STEP = 3
"""Passes of an image in a plain training step: forward, input gradients, weight gradients."""


@dataclass(frozen=True, kw_only=True)
class Whitening(Stage):
    """What the first layer of networks with model.input = zca is fitted by."""

    name, version, work = "whitening", 1, "guard.models.input_layer:fit_whitening"
    data: DataConfig
    compute: ComputeConfig

    @classmethod
    def of(cls, shared: Shared, model: ModelConfig) -> Whitening | None:
        """None where the network has another first layer."""
        return cls(data=shared.data, compute=shared.compute) if model.input == "zca" else None


CROPS, WHITENED = "crops of redrawn area", "dsa of whitened images"
PASSES = "passes of a regularizer"
UNMIXED = "hard epochs without mixing"
"""What `mended` names."""


def mended_batches(train: TrainConfig, whitening: Whitening | None) -> tuple[str, ...]:
    """`Stage.mended` of networks that are trained like this."""
    space = dsa_space(train, whitening)
    return mended_where({CROPS: "resized-crop" in train.augment, WHITENED: space is not None})


def mended_passes(*regularizers: RegularizerConfig) -> tuple[str, ...]:
    """`Stage.mended` of networks that are trained with these."""
    return (PASSES,) if any(regularizer.active for regularizer in regularizers) else ()


def dsa_space(train: TrainConfig, whitening: Whitening | None) -> Whitening | None:
    """The whitening, where augmentation depends on it."""
    return whitening if "dsa" in train.augment else None


class Trained(Stage):
    """A stage that writes a network (`guard.models.saving`), and says of its training: `metrics`,
    `history`."""


@dataclass(frozen=True, kw_only=True)
class Squeeze(Trained):
    """A network trained on the real images."""

    name, version, work = "squeeze", 2, "guard.training.teacher:squeeze"
    whitening: Whitening | None
    data: DataConfig
    model: ModelConfig
    train: SqueezeConfig
    regularizer: RegularizerConfig
    eps: float
    seed: int
    keeps: bool = field(default=False, metadata=LATER)
    """Whether it keeps the network as it is after some of its epochs (`kept_epochs`)."""
    compute: ComputeConfig

    @classmethod
    def of(cls, shared: Shared, model: ModelConfig | None = None) -> Squeeze:
        """As the trial's `squeeze` says; model: None for the trial's own."""
        model = model or shared.model
        return cls(
            whitening=Whitening.of(shared, model),
            data=shared.data,
            model=model,
            train=shared.squeeze.read_by(model),
            regularizer=shared.acting_regularizer,
            eps=shared.radius(shared.regularizer),
            seed=shared.seed,
            keeps=shared.keeps,
            compute=shared.compute,
        )

    @property
    def mended(self) -> tuple[str, ...]:
        return mended_batches(self.train, self.whitening) + mended_passes(self.regularizer)

    @property
    def looks(self) -> list[EarlySqueeze]:
        """Where it may be looked at before its end, in order."""
        every = sorted({max(1, round(share * self.train.epochs)) for share in LOOKS})
        own = {name: getattr(self, name) for name in field_names(Squeeze)} | {"keeps": False}
        return [EarlySqueeze(**own, until=until) for until in every if until < self.epochs]

    @property
    def epochs(self) -> int:
        """That it trains."""
        return self.train.epochs

    def passes(self, sizes: Sizes) -> float:
        return sizes.train * self.epochs * (PLAIN_STEP + self.regularizer.passes)


@dataclass(frozen=True, kw_only=True)
class EarlySqueeze(Squeeze):
    """The network of a squeeze after some of its epochs, averaged over the last of them, and the
    state that the squeeze goes on from (`guard.training.looks`)."""

    name, version, work = "early-squeeze", 1, "guard.training.looks:early_squeeze"
    until: int
    """Epochs of `train` that are trained; schedules are those of all of them."""

    @property
    def epochs(self) -> int:
        return self.until


@dataclass(frozen=True, kw_only=True)
class Early(Trained):
    """A network as it is after some epochs of its training."""

    name, version, work = "early", 1, "guard.training.committee:stopped_early"
    teacher: Squeeze
    epoch: int
    compute: ComputeConfig


@dataclass(frozen=True, kw_only=True)
class Committee(Trained):
    """Several networks as one: the mean of their logits."""

    name, version, work = "committee", 1, "guard.training.committee:together"
    teachers: tuple[Trained, ...]
    compute: ComputeConfig


class Part(Stage):
    """A stage that makes images, or some of each class (`guard.distilled.save_part`), and says of
    it: `metrics`."""

    @property
    def partition(self) -> int:
        """k: each of its images is k by k smaller ones, which the student sees enlarged."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Distilled(Stage):
    """The distilled set, put together from its parts."""

    name, version, work = "distilled", 2, "guard.assembly:assemble"
    teacher: Trained | None
    """Whose soft labels the card has."""
    parts: tuple[Part, ...]
    method: str
    ipc: int
    portable: StudentConfig | None = field(default=None, metadata=LATER)
    """The teacher's logits that lie beside the images, as far as they depend on the student
    (`StudentConfig.portable_only`); None: there are none."""
    bn: str = field(default="eval", metadata=LATER)
    """The teacher's BatchNorm for these labels."""
    whitening: Whitening | None = None
    """The student's, where the labelled batches depend on it."""
    compute: ComputeConfig

    def images(self, num_classes: int) -> int:
        """How many a student sees in an epoch: those that the stored ones are made of."""
        return self.ipc * num_classes * self.parts[0].partition ** 2


@dataclass(frozen=True, kw_only=True)
class Loaded(Trained):
    """A network that somebody trained."""

    name, version, work = "loaded", 1, "guard.loaded:load_weights"
    path: str
    """Of its weights; not what they are."""
    sha256: str
    """Their content."""
    model: ModelConfig
    data: DataConfig
    compute: ComputeConfig

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "path": ""}


@dataclass(frozen=True, kw_only=True)
class Relabel(Stage):
    """A teacher's logits for every epoch of the student's augmented batches."""

    name, version, work = "relabel", 4, "guard.training.labels:relabel"
    teacher: Trained
    distilled: Distilled
    student: StudentConfig
    """As far as the batches depend on it (`StudentConfig.batches_only`)."""
    whitening: Whitening | None
    """The student's, where the batches depend on it."""
    bn: str = field(default="eval", metadata=LATER)
    """The teacher's BatchNorm."""
    part: int = field(default=0, metadata=LATER)
    """Which of the `parts` that share the epochs, from 0."""
    parts: int = field(default=1, metadata=LATER)
    compute: ComputeConfig

    @classmethod
    def of(
        cls,
        teacher: Trained,
        distilled: Distilled,
        student: StudentConfig,
        whitening: Whitening | None,
        bn: str = "eval",
        parts: int = 1,
    ) -> list[Relabel]:
        """Every part. whitening: of the student's first layer; bn: the teacher's BatchNorm."""
        return [
            cls(
                teacher=teacher,
                distilled=distilled,
                student=student.batches_only(),
                whitening=dsa_space(student.train, whitening),
                bn=bn,
                part=part,
                parts=parts,
                compute=distilled.compute,
            )
            for part in range(parts)
        ]

    def passes(self, sizes: Sizes) -> float:
        return images_seen(self.distilled, self.student, sizes) / self.parts


@dataclass(frozen=True, kw_only=True)
class Student(Trained):
    """A network trained on the distilled set."""

    name, version, work = "student", 2, "guard.training.student:train_student"
    distilled: Distilled
    whitening: Whitening | None
    labels: Relabel | None
    """None: the set's own labels."""
    further_labels: tuple[Relabel, ...] = ()
    """Where several share them, the parts after the first."""
    model: ModelConfig
    student: StudentConfig
    eps: float = field(default=0.0, metadata=LATER)
    """Radius of the threat model, where the student is trained against it."""
    compute: ComputeConfig

    @property
    def relabelled(self) -> tuple[Relabel, ...]:
        """Every part of a teacher's labels, in order; empty without them."""
        return () if self.labels is None else (self.labels, *self.further_labels)

    @property
    def mended(self) -> tuple[str, ...]:
        mixes = self.student.hard_epochs > 0 and self.student.mix != "none"
        batches = mended_batches(self.student.train, self.whitening)
        return batches + mended_where({UNMIXED: mixes})

    def passes(self, sizes: Sizes) -> float:
        per_image = PLAIN_STEP + self.student.regularizer.passes
        return per_image * images_seen(self.distilled, self.student, sizes)


def images_seen(distilled: Distilled, student: StudentConfig, sizes: Sizes) -> int:
    """By a student, in all of its epochs."""
    return distilled.images(sizes.num_classes) * student.train.epochs
