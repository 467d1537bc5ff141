"""Sets that somebody made, by any method and any code, beside those that are distilled here. How
they are read is in `reading.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from guard.config.common import ComputeConfig
from guard.config.data import DataConfig
from guard.config.rules import at_least
from guard.config.schema import Config
from guard.config.shared import Shared
from guard.config.training import Labels
from guard.methods.method import Method
from guard.stages import Part, Trained


@dataclass(frozen=True, kw_only=True)
class SetFacts(Config):
    """What planning knows of a set, filled in when a study starts; a stage refuses other content.
    Its content alone decides what a trial is."""

    path: str = ""
    """As it was typed: its name."""
    place: str = ""
    """Where that is."""
    sha256: str = ""
    """Of its content."""
    ipc: Annotated[int, at_least(1)] = 1
    """Images per class."""
    partition: Annotated[int, at_least(1)] = 1
    """k: each image is k by k smaller ones."""
    labels: Labels = "hard"
    """Its own: the classes alone (hard), probabilities (own), or a teacher's logits (fixed,
    budget)."""
    learned_lr: bool = False
    """Whether a learning rate lies in it."""
    notes: tuple[str, ...] = ()
    """What was taken for what, a line each."""


@dataclass(frozen=True, kw_only=True)
class GivenImages(Part):
    """The images of a set, and what else lies in it."""

    name, version, work = "given", 2, "guard.methods.given.reading:read_set"
    path: str
    """Where it lies; not what it is, if the content is known."""
    sha256: str
    """Its content; empty: whatever is there."""
    data: DataConfig
    """What its images are of."""
    ipc: int
    tiles: int
    """Of its partition."""
    compute: ComputeConfig

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, "path": "" if self.sha256 else self.path}

    @property
    def partition(self) -> int:
        return self.tiles


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """A set that somebody made: a folder of images (a folder a class), an .npz or a .pt file of
    images and labels, or the folder of a distilled set. It is read, not distilled, and has the
    images per class that it has."""

    stages: ClassVar = (GivenImages,)
    takes_regularizer: ClassVar = False
    takes_ipc: ClassVar = False
    path: str = ""
    """Of the set."""
    known: tuple[SetFacts, ...] = ()
    """Of the study's sets, filled in when it starts."""

    @property
    def facts(self) -> SetFacts | None:
        """Of the set; None before a study starts."""
        return next((facts for facts in self.known if facts.path == self.path), None)

    @property
    def title(self) -> str:
        return self.path

    @property
    def identity(self) -> dict[str, Any]:
        return {"sha256": self.facts.sha256} if self.facts else {"path": self.path}

    @property
    def learns_labels(self) -> bool:
        return self.facts is None or self.facts.labels != "hard"

    @property
    def learns_rate(self) -> bool:
        return self.facts is not None and self.facts.learned_lr

    def images_per_class(self, ipc: int) -> int:
        return self.facts.ipc if self.facts else ipc

    def cautions(self, shared: Shared) -> Sequence[str]:
        return self.facts.notes if self.facts else ()

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        facts = self.facts
        return [
            GivenImages(
                path=facts.place if facts else self.path,
                sha256=facts.sha256 if facts else "",
                data=shared.data,
                ipc=shared.ipc,
                tiles=facts.partition if facts else 1,
                compute=shared.compute,
            )
        ]
