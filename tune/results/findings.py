"""What a study has found so far, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.config import radius_text
from guard.robustness.measures import CLEAN
from guard.trial import TrialConfig
from tune.options import MAX_CLEAN_DROP
from tune.results.comparison import Comparison, compared, shared_place, short_titles, versus
from tune.results.folder import StudyFolder
from tune.results.front import start_of
from tune.results.reading import read_object
from tune.results.records import Record
from tune.results.tables import by_chance, level, signed_percent, verdict
from tune.results.wording import joined


@dataclass(frozen=True, kw_only=True)
class Results:
    """What there is of a study now."""

    folder: StudyFolder
    records: Sequence[Record]
    comparisons: Sequence[Comparison]
    left_out: Sequence[str] = ()
    """A line for each file of the study that cannot be read."""

    @classmethod
    def read(cls, folder: StudyFolder) -> Results:
        """Of the search by trial number, then of the confirmation."""
        return cls(
            folder=folder,
            records=folder.every_record(),
            comparisons=compared(folder),
            left_out=folder.left_out(),
        )

    @property
    def max_clean_drop(self) -> float:
        """Clean validation accuracy that a search's choice may lose to its control, as about.json
        has it."""
        value = self._stated("about.json").get("max_clean_drop")
        return float(value) if isinstance(value, (int, float)) else MAX_CLEAN_DROP

    @property
    def choice(self) -> Record | None:
        """The trial of a search's best.json; None where this cannot be read, as without a
        search."""
        stated = self._stated("best.json")
        try:
            fingerprint = TrialConfig.from_dict(stated).fingerprint() if stated else ""
        except ValueError:
            return None
        return next((r for r in self.records if r.fingerprint == fingerprint), None)

    @property
    def start(self) -> Record | None:
        """The search's trial at its own values, of the choice's method and images per class."""
        choice, base = self.choice, self._stated("study.json")
        return start_of(choice, self.records, base) if choice is not None else None

    def comparison_of(self, record: Record) -> Comparison | None:
        """Of the runs that repeat a trial of a search; None before there are any."""

        def is_of(comparison: Comparison) -> bool:
            runs = comparison.arm.records.values()
            return any(run.trial == record.trial and not run.is_search for run in runs)

        return next(filter(is_of, self.comparisons), None)

    def _stated(self, name: str) -> Mapping[str, Any]:
        """What a file of the study says; nothing where it cannot be read."""
        try:
            return read_object(self.folder.path / name)
        except (OSError, ValueError):
            return {}

    @property
    def measured(self) -> Path:
        """The file of what a study measures after its trials, which may not be there yet."""
        return self.folder.path / "measured.csv"

    @property
    def caption(self) -> str:
        """Data, method and IPC if all arms share them, samples, seeds and attacks, for a figure's
        title; "" before there are any."""
        if not self.comparisons:
            return ""
        first = self.comparisons[0]
        own = first.arm.config
        attacks = ", ".join(own.evaluation.attacks)
        most = max(comparison.clean.num_distillations for comparison in self.comparisons)
        seeds = f"{most} seeds" if most > 1 else "one seed (intervals over test images alone)"
        what = joined(own.data.name, shared_place(self.comparisons))
        return (
            f"{what}: {first.clean.num_samples} test images, {seeds}; {attacks}, "
            f"{own.evaluation.norm} eps {radius_text(own.evaluation.eps)}"
        )

    @property
    def where(self) -> str:
        """The method and IPC of all arms, in brackets; "" where they differ."""
        place = shared_place(self.comparisons)
        return f" ({place})" if place else ""


def gains_in_words(results: Results) -> str:
    """Which arms are more robust than their controls, which less, which not clearly either, and how
    often chance alone would say so."""
    groups: dict[str, list[str]] = {}
    titles = short_titles(results.comparisons)
    gains = [c.robust_gain for c in results.comparisons if c.robust_gain is not None]
    for title, comparison in zip(titles, results.comparisons, strict=True):
        gain = comparison.robust_gain
        if gain is None:
            continue
        groups.setdefault(verdict(gain), []).append(f"{title}: {signed_percent(gain)}")
    if not groups:
        held = not results.comparisons or any(
            comparison.arm.config.regularizer.active for comparison in results.comparisons
        )
        return f"No arm {'has a control that is complete' if held else 'is regularized'}."
    parts = [f"{outcome.capitalize()}: {'; '.join(arms)}." for outcome, arms in groups.items()]
    measure = "Robust accuracy against the unregularized control, in points"
    return " ".join([f"{measure}{results.where}, {level(gains)}.", *parts, by_chance(len(gains))])


def against_start(results: Results) -> str:
    """The search's choice against the values that it began with, both confirmed, in words; "" where
    that cannot be said."""
    choice, start = results.choice, results.start
    if choice is None or start is None:
        return ""
    if choice.trial == start.trial:
        return "The search's choice is the values that it began with."
    ours, theirs = results.comparison_of(choice), results.comparison_of(start)
    if ours is None or theirs is None:
        return ""
    return f"The search's choice against the values that it began with: {duel(ours, theirs)}."


def duel(ours: Comparison, theirs: Comparison) -> str:
    """One arm's robust accuracy less another's, on the seeds of both, and what it costs or saves in
    clean accuracy."""
    found, clean = versus(ours, theirs), versus(ours, theirs, CLEAN)
    if found is None:
        return f"{ours.arm.title} and {theirs.arm.title} share no seed"
    return (
        f"{ours.arm.title} against {theirs.arm.title}: {verdict(found)}, "
        f"{signed_percent(found)} points "
        f"(clean {signed_percent(clean)})"
    )
