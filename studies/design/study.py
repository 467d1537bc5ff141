"""What a study is: a question, the trials that answer it, and how the answer is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from guard.pipeline import RunStage
from studies.design.design import Design
from studies.presets import Preset
from tune.results.findings import Results
from tune.results.folder import StudyFolder

if TYPE_CHECKING:
    import threading
    from contextlib import AbstractContextManager

    from matplotlib.figure import Figure

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the report, as text."""

    anchor: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a report tells of a study."""

    name: str
    """Of the command, and of its folder by default."""
    question: str
    source: str
    """The published table or figure that it is after, in words."""
    after: Sequence[str] = ()
    """Numbers of GUARD's tables that stand in its report (`studies.reporting.published`)."""
    figures: Callable[[Results], Mapping[str, Figure]]
    """File name without suffix -> figure."""
    answer: Callable[[Results], str]
    """In a sentence or two."""
    tables: Callable[[Results], Sequence[Table]] = lambda results: ()
    """Further tables of the report, each also ANCHOR.md in the study's folder."""


class Machine(Protocol):
    """The running Ray, for what a study measures."""

    @property
    def folder(self) -> StudyFolder: ...
    @property
    def stages_at_a_time(self) -> int: ...
    def run_stage(self) -> RunStage: ...
    def at(
        self, folder: StudyFolder
    ) -> AbstractContextManager[Callable[[threading.Event], RunStage]]:
        """Another folder's stages on the same Ray, for as long as this lasts."""
        ...

    def say(self, line: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Study(Story):
    """A study of trials that are known beforehand."""

    design: Callable[[Preset], Design]
    measure: Callable[[Results, Machine], Sequence[Row]] | None = None
    """What else is done on Ray when all trials are finished; its rows are measured.csv."""
    seeds: int = 3


def is_empty(story: Story, results: Results) -> bool:
    """Whether a study of trials has neither compared nor measured anything yet."""
    is_measured = bool(results.comparisons) or results.measured.is_file()
    return isinstance(story, Study) and not is_measured


def conclusion(story: Story, results: Results) -> str:
    """The story's answer, as far as there is one."""
    if is_empty(story, results):
        return "Nothing can be compared yet."
    return story.answer(results)


def confirmed(preset: Preset, **settings: Any) -> dict[str, Any]:
    """The settings of a study whose trials are compared and not chosen from: the suite that the
    preset confirms with."""
    attacks = list(preset.confirm.attacks)
    return {"evaluation.attacks": attacks, **settings}
