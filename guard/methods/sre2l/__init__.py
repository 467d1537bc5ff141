"""SRe2L and CDA: hyper-parameters, facts and stages. Their work is in `recover.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ComputeConfig
from guard.config.rules import above, at_least
from guard.config.shared import Shared
from guard.errors import ConfigError
from guard.methods.method import Method
from guard.stage import Sizes
from guard.stages import Part, Squeeze, Trained

ITERATION_PASSES = 2
"""Of an image: forward, and its own gradient."""


@dataclass(frozen=True, kw_only=True)
class Recover(Part):
    """One chunk of images a class, recovered from a teacher."""

    name, version, work = "recover", 3, "guard.methods.sre2l.recover:recover"
    teacher: Trained
    recover: SRe2L
    chunk: int
    """Its number."""
    seed: int
    compute: ComputeConfig

    def passes(self, sizes: Sizes) -> float:
        images = self.recover.chunk * sizes.num_classes
        return images * self.recover.iterations * ITERATION_PASSES


@dataclass(frozen=True, kw_only=True)
class SRe2L(Method):
    """SRe2L (arXiv 2306.13092): squeeze the data into a teacher, recover images from noise by label
    loss + BN-statistics loss, relabel. The regularizer acts in squeeze."""

    stages: ClassVar = (Recover,)
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

    def teachers(self, shared: Shared) -> Sequence[Trained]:
        return [Squeeze.of(shared)]

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        """A stage for each chunk of images a class."""
        return [
            Recover(
                teacher=teachers[0],
                recover=self,
                chunk=number,
                seed=shared.seed,
                compute=shared.compute,
            )
            for number in range(-(-shared.ipc // self.chunk))
        ]

    def check(self) -> None:
        """A curriculum without crops. Raises ConfigError."""
        if self.curriculum != "none" and self.crop == "none":
            raise ConfigError("curriculum", "needs crop = image or batch, got crop = none")


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
