"""Controls that distil nothing: some of the real images, and all of them. How some are chosen is in
`choice.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from guard.config.common import ComputeConfig
from guard.config.data import DataConfig
from guard.config.shared import Shared
from guard.methods.method import Method
from guard.stages import Part, Squeeze, Trained


@dataclass(frozen=True, kw_only=True)
class Subset(Part):
    """`ipc` real images a class."""

    name, version, work = "subset", 1, "guard.methods.subset.choice:pick"
    features: Trained | None
    """Whose features they are herded by; None: they are drawn."""
    data: DataConfig
    selection: str
    ipc: int
    seed: int
    compute: ComputeConfig


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Real images, drawn at random."""

    stages: ClassVar = (Subset,)
    takes_regularizer: ClassVar = False
    selection: ClassVar[str] = "random"

    @property
    def needs_real_images(self) -> bool:
        return True

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        return [
            Subset(
                features=teachers[0] if teachers else None,
                data=shared.data,
                selection=self.selection,
                ipc=shared.ipc,
                seed=shared.seed,
                compute=shared.compute,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Herding(Random):
    """Real images, herded by the features of a network trained on all of them (iCaRL, arXiv
    1611.07725)."""

    reads: ClassVar = ("squeeze",)
    selection: ClassVar[str] = "herding"

    def teachers(self, shared: Shared) -> Sequence[Trained]:
        return [Squeeze.of(shared.unregularized())]


@dataclass(frozen=True, kw_only=True)
class KCenter(Random):
    """Real images that cover their class: in pixels no image is far from one that is chosen.
    Greedy, so at most twice as far as in the best choice (Gonzalez, 1985). arXiv 2402.05675 solves
    for the best, and trains adversarially on it."""

    selection: ClassVar[str] = "k-center"


@dataclass(frozen=True, kw_only=True)
class Whole(Method):
    """Every real image: the student is trained on them as `squeeze` says, with the trial's
    regularizer. What no small set is expected to exceed."""

    reads: ClassVar = ("squeeze",)
    distils: ClassVar = False
    takes_ipc: ClassVar = False
