"""SRe2L and CDA: hyper-parameters, facts and stages. Their work is in `recover.py`, the statistics
of single classes in `classwise.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from guard.committees import members, network_of, together
from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import MAX_SIDE, DataConfig
from guard.config.labels import OWN, CommitteeConfig
from guard.config.rules import above, at_least
from guard.config.schema import LATER
from guard.config.shared import Shared
from guard.data.spec import ImageSpec
from guard.errors import ConfigError
from guard.methods.method import Method
from guard.methods.rded import Crops, Mosaic
from guard.stage import Sizes, Stage
from guard.stages import Part, Squeeze, Trained

ITERATION_PASSES = 2
"""Of an image: forward, and its own gradient."""


@dataclass(frozen=True, kw_only=True)
class ClassStatistics(Stage):
    """What a teacher's BatchNorm layers get of each class of the real images."""

    name, version, work = "class-statistics", 1, "guard.methods.sre2l.classwise:measure"
    teacher: Trained
    data: DataConfig
    compute: ComputeConfig

    def passes(self, sizes: Sizes) -> float:
        return sizes.train


@dataclass(frozen=True, kw_only=True)
class Recover(Part):
    """One chunk of images a class, recovered from a teacher."""

    name, version, work = "recover", 3, "guard.methods.sre2l.recover:recover"
    teacher: Trained
    """Of a committee one member after another has a step, and its own statistics."""
    patches: Mosaic | None = None
    """What images start as, and are mixed with; None: noise."""
    statistics: ClassStatistics | None = None
    """What they are to have; None: the teacher's running statistics."""
    recover: SRe2L
    chunk: int
    """Its number."""
    seed: int
    compute: ComputeConfig

    def passes(self, sizes: Sizes) -> float:
        images = self.recover.chunk * sizes.num_classes
        return images * self.recover.iterations * ITERATION_PASSES


PLUS_PLUS: Mapping[str, Any] = {
    "jitter": 4,
    "crop": "batch",
    "flip": True,
    "patches": {"pick": "medium"},
}

RESIDUAL: Mapping[str, Any] = {"phases": 4, "residual": 0.5}
FADRM: Mapping[str, Any] = {**PLUS_PLUS, "iterations": 2000, "patches": {}, **RESIDUAL}
SMALL: Mapping[str, Any] = {
    "iterations": 300,
    "lr": 0.1,
    "bn_weight": 0.1,
    "jitter": 2,
    "chunk": 10,
}
"""SRe2L in the preset `cifar10-small`."""
FOUR_NETWORKS = (
    "resnet18",
    "torchvision:densenet121",
    "torchvision:shufflenet_v2_x1_0",
    "torchvision:mobilenet_v2",
)


@dataclass(frozen=True, kw_only=True)
class SRe2L(Method):
    """SRe2L (arXiv 2306.13092): squeeze the data into a teacher, recover images from noise by label
    loss + BN-statistics loss, relabel. The regularizer acts in squeeze."""

    stages: ClassVar = (Recover, ClassStatistics)
    reads: ClassVar = ("squeeze",)
    teacher_labels: ClassVar = True
    needs_batchnorm: ClassVar = True

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
    """Mirror each image, or with crop = batch all of them (published), with probability 1/2."""
    chunk: Annotated[int, at_least(1)] = 1
    """Images per class that are recovered together, and share BN statistics; a set of any IPC is a
    prefix of the chunks. The papers' value is 1."""
    patches: Crops | None = field(default=None, metadata=LATER)
    """Images start as crops of real ones, chosen like this by the teacher (SRe2L++, FADRM); None:
    as noise."""
    phases: Annotated[int, at_least(1)] = field(default=1, metadata=LATER)
    """Equal parts of the iterations; each begins with a fresh Adam, the learning rate goes on."""
    residual: Annotated[float, at_least(0, at_most=1)] = field(default=0.0, metadata=LATER)
    """Between two phases images become (1 − residual)·image + residual·patch (FADRM: 1/2)."""
    sizes: tuple[Annotated[int, at_least(1, at_most=MAX_SIDE)], ...] = field(
        default=(), metadata=LATER
    )
    """Side of the images in each phase, in pixels; empty: their own. They end in their own."""
    bn_statistics: Literal["all", "class"] = field(default="all", metadata=LATER)
    """class: the images of a class are to have the BatchNorm statistics of that class (LPLD)."""
    bn_scale: Literal["sum", "mean"] = field(default="sum", metadata=LATER)
    """sum: of the norms of all layers (published), which grows with width and depth. mean: of their
    root mean squares over channels, so that one r_bn serves several networks."""
    committee: CommitteeConfig | None = field(default=None, metadata=LATER)
    """Teachers that images are recovered from, one a step, over and over; they label together, and
    the first one chooses patches (FADRM+). None: the trial's own teacher."""

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
        "sre2l++": {**PLUS_PLUS, "iterations": 4000},
        "fadrm": FADRM,
        "fadrm+": {
            **FADRM,
            "bn_scale": "mean",
            "bn_weight": 3.6,
            "committee": {"networks": FOUR_NETWORKS},
        },
        "sre2l++-digits": {"chunk": 5, "patches": {"pick": "medium", "crop_scale": 0.6}},
        "fadrm-digits": {"chunk": 5, "patches": {"crop_scale": 0.6}, **RESIDUAL},
        "sre2l++-cifar10-small": {**SMALL, "patches": {"pick": "medium"}},
        "fadrm-cifar10-small": {**SMALL, "patches": {}, **RESIDUAL},
    }
    """SRe2L's settings by data set; SRe2L++'s (arXiv 2501.07575) and FADRM's (NeurIPS 2025) on
    CIFAR-10, where the one's iterations and the other's phases are known: what is not known of
    FADRM is as in SRe2L++, but for its patches, which are RDED's. FADRM+ takes turns on four
    networks. Ours are the width of its ShuffleNetV2, r_bn, which is what 0.01 comes to on ResNet-18
    as a mean, a roll of up to 4 pixels, and that each phase begins with a fresh Adam.

    Those for the small presets are ours. On digits they are of images as they are, since a crop of
    a digit is none: students of crops have 14 and 27 % robust accuracy on validation images, of
    images as they are 47 and 46, and SRe2L's from noise 30 (ten a class, soft labels, three seeds).
    Those of `cifar10-small` are not tuned."""

    @property
    def needs_real_images(self) -> bool:
        return self.patches is not None

    def teachers(self, shared: Shared) -> Sequence[Trained]:
        return members(shared, self.committee or CommitteeConfig())

    def networks(self, shared: Shared) -> Mapping[str, ModelConfig]:
        """Of its teachers, by their names in the committee. Raises ConfigError."""
        names = (self.committee or CommitteeConfig()).networks
        try:
            return {name: network_of(shared, name) for name in names}
        except ConfigError as error:
            path = f"{shared.method}.committee.networks"
            raise ConfigError(path, str(error.under("model"))) from None

    def held_at_once(self, ipc: int) -> int:
        return self.chunk

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        """A stage for each chunk of images a class."""
        patches = statistics = None
        teacher, first = together(teachers, shared.compute), teachers[0]
        if self.patches is not None:
            assert isinstance(first, Squeeze)
            patches = Mosaic.of(shared, first, self.patches, shared.ipc)
        if self.bn_statistics == "class":
            statistics = ClassStatistics(teacher=teacher, data=shared.data, compute=shared.compute)
        return [
            Recover(
                teacher=teacher,
                patches=patches,
                statistics=statistics,
                recover=self,
                chunk=number,
                seed=shared.seed,
                compute=shared.compute,
            )
            for number in range(-(-shared.ipc // self.chunk))
        ]

    def check(self) -> None:
        """A curriculum without crops, phases that do not fit. Raises ConfigError."""
        if self.curriculum != "none" and self.crop == "none":
            raise ConfigError("curriculum", "needs crop = image or batch, got crop = none")
        if self.phases > self.iterations:
            raise ConfigError(
                "phases", f"must be at most iterations = {self.iterations}, got {self.phases}"
            )
        if self.residual and self.patches is None:
            raise ConfigError("residual", "needs patches to mix with, got patches = None")
        if self.sizes and len(self.sizes) != self.phases:
            raise ConfigError(
                "sizes", f"must be one for each of {self.phases} phases, got {len(self.sizes)}"
            )

    def check_trial(self, shared: Shared) -> None:
        """Networks without BatchNorm, sizes that one does not take, a regularizer without a
        teacher, patches by a longer training than there is. Raises ConfigError."""
        self._check_committee(shared)
        convnet = any(own.name == "convnet" for own in self.networks(shared).values())
        one_size = convnet or shared.model.input == "zca"
        if self.sizes and one_size:
            raise ConfigError(
                f"{shared.method}.sizes",
                "needs a teacher for images of any side; convnet and model.input = zca take one",
            )
        if self.patches is not None:
            try:
                self.patches.check_training(shared.squeeze)
            except ConfigError as error:
                raise error.under(f"{shared.method}.patches") from None

    def check_images(self, shared: Shared, spec: ImageSpec, smallest: int) -> None:
        """Raises ConfigError."""
        if self.patches is not None:
            self.patches.check_crops(f"{shared.method}.patches", shared.ipc, spec, smallest)

    def _check_committee(self, shared: Shared) -> None:
        if self.committee is None:
            return
        path = f"{shared.method}.committee"
        self.committee.check_units(f"{path}.teachers", shared.model)
        for name, network in self.networks(shared).items():
            if not network.has_batchnorm:
                raise ConfigError(
                    f"{path}.networks",
                    f"{shared.method} matches BatchNorm statistics, and {name} has none",
                )
        if shared.regularizer.active and OWN not in self.committee.teachers:
            raise ConfigError(
                f"{path}.teachers",
                f"must name own, which {shared.regularizer.kind} acts on (or set regularizer=none);"
                f" got {', '.join(self.committee.teachers)}",
            )


@dataclass(frozen=True, kw_only=True)
class CDA(SRe2L):
    """CDA (arXiv 2311.18838): crops that start easy, whole images, and get harder."""

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
