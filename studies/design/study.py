"""What a study is: a question, the trials that answer it, and how the answer is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guard.config import EvaluationConfig, radius_text
from studies.design.design import Design
from studies.presets import Preset
from tune.results.comparison import Comparison, compared, shared_place, short_titles, versus
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.tables import signed_percent, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from studies.driver.session import Session

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """What there is of a study now."""

    folder: StudyFolder
    records: Sequence[Record]
    comparisons: Sequence[Comparison]

    @classmethod
    def read(cls, folder: StudyFolder) -> Results:
        records = [*folder.records(), *folder.confirmations()]
        return cls(folder, records, compared(folder))

    @property
    def measured(self) -> Path:
        """The file of `Study.measure`, which may not be there yet."""
        return self.folder.path / "measured.csv"

    @property
    def evaluation(self) -> EvaluationConfig:
        return self.comparisons[0].arm.config.evaluation

    @property
    def caption(self) -> str:
        """Data, method and IPC if all arms share them, samples, seeds and attacks, for a figure's
        title; "" before there are any."""
        if not self.comparisons:
            return ""
        first = self.comparisons[0]
        own = first.arm.config
        attacks = ", ".join(own.evaluation.attacks)
        seeds = max(comparison.clean.num_distillations for comparison in self.comparisons)
        what = ", ".join(filter(None, (own.data.name, shared_place(self.comparisons))))
        return (
            f"{what}: {first.clean.num_samples} test images, {seeds} seeds; {attacks}, "
            f"{own.evaluation.norm} eps {radius_text(own.evaluation.eps)}"
        )

    @property
    def where(self) -> str:
        """The method and IPC of all arms, in brackets; "" where they differ."""
        place = shared_place(self.comparisons)
        return f" ({place})" if place else ""


@dataclass(frozen=True)
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
    """The published table or figure that it is after."""
    figures: Callable[[Results], Mapping[str, Figure]]
    """File name without suffix -> figure."""
    answer: Callable[[Results], str]
    """In a sentence or two."""
    tables: Callable[[Results], Sequence[Table]] = lambda results: ()
    """Further tables of the report."""


@dataclass(frozen=True, kw_only=True)
class Study(Story):
    """A study of trials that are known beforehand."""

    design: Callable[[Preset], Design]
    measure: Callable[[Results, Session], Sequence[Row]] | None = None
    """What else is done on Ray when all trials are finished; its rows are measured.csv."""
    seeds: int = 3


def conclusion(story: Story, results: Results) -> str:
    """The story's answer, as far as there is one."""
    if isinstance(story, Study) and not results.comparisons:
        return "Nothing can be compared yet."
    return story.answer(results)


def confirmed(preset: Preset, **settings: Any) -> dict[str, Any]:
    """The settings of a study whose trials are compared and not chosen from: the suite that the
    preset confirms with."""
    attacks = list(preset.confirm.attacks)
    return {"evaluation.attacks": attacks, **settings}


def gains_in_words(results: Results) -> str:
    """Which arms are more robust than their controls, which less, and which not clearly either."""
    groups: dict[str, list[str]] = {}
    titles = short_titles(results.comparisons)
    for title, comparison in zip(titles, results.comparisons, strict=True):
        gain = comparison.robust_gain
        if gain is None:
            continue
        groups.setdefault(verdict(gain), []).append(f"{title}: {signed_percent(gain)}")
    if not groups:
        return "No arm has a control that is complete."
    parts = [f"{outcome.capitalize()}: {'; '.join(arms)}." for outcome, arms in groups.items()]
    measure = f"Robust accuracy against the unregularized control, in points{results.where}."
    return " ".join([measure, *parts])


def duel(ours: Comparison, theirs: Comparison) -> str:
    """One arm's robust accuracy less another's, on the seeds of both, and what it costs or saves in
    clean accuracy."""
    found, clean = versus(ours, theirs), versus(ours, theirs, "clean")
    if found is None:
        return f"{ours.arm.title} and {theirs.arm.title} share no seed"
    return (
        f"{ours.arm.title} against {theirs.arm.title}: {verdict(found)}, "
        f"{signed_percent(found)} points "
        f"(clean {signed_percent(clean)})"
    )
