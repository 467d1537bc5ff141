"""What the pictures of a search show, before they are drawn: `figures` draws for print,
`interactive` for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guard.trial import TrialConfig
from tune.options import MAX_CLEAN_DROP
from tune.results.front import allowed, pareto_front
from tune.results.records import OBJECTIVES, Record
from tune.results.wording import joined, place

WEIGHT, STEP = "regularizer.weight", "regularizer.h"
LEAST_ON_A_MAP = 5
"""Trials of one method and IPC: fewer say nothing of how robust accuracy lies over λ and h."""
BARRED = "loses too much clean accuracy"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Trials that look alike: of one method, or one method and IPC, with a penalty or without."""

    label: str
    look: int
    """Number of the method (and IPC), from 0: which marker and colour it has."""
    control: bool
    """Hollow markers: the unregularized trials."""
    records: Sequence[Record]


@dataclass(frozen=True, kw_only=True)
class Search:
    """The complete trials of a search, by what it selects on."""

    complete: Sequence[Record]
    barred: Sequence[Record] = ()
    """Those of them that lose more clean accuracy than the choice may."""
    stopped: Sequence[Record] = ()
    """Those that the search ended early."""

    @classmethod
    def of(cls, records: Iterable[Record], max_clean_drop: float = MAX_CLEAN_DROP) -> Search:
        """Of all records; those of no search, or without an end, are left out."""
        searched = [record for record in records if record.is_search]
        complete = [
            record
            for record in searched
            if record.status == "complete" and all(name in record.metrics for name in OBJECTIVES)
        ]
        fine = {record.trial for record in allowed(complete, max_clean_drop)}
        return cls(
            complete=complete,
            barred=[record for record in complete if record.trial not in fine],
            stopped=[record for record in searched if record.status == "stopped"],
        )

    @property
    def front(self) -> list[Record]:
        return pareto_front(self.complete)

    @property
    def flagged(self) -> list[Record]:
        """Those whose accuracies are not to be taken as they are."""
        return [record for record in self.complete if record.flags]

    def maps(self) -> dict[tuple[str, int], list[Record]]:
        """Complete trials that have a λ and an h of their own, by method and IPC, as far as there
        are enough of them for a map."""
        groups: dict[tuple[str, int], list[Record]] = {}
        for record in sorted(self.complete, key=lambda record: record.group):
            if {WEIGHT, STEP} <= record.params.keys() and not record.control:
                groups.setdefault(record.group, []).append(record)
        return {place: own for place, own in groups.items() if len(own) >= LEAST_ON_A_MAP}

    def barred_of(self, records: Iterable[Record]) -> list[Record]:
        """Those of some complete trials that must not be chosen."""
        barred = {record.trial for record in self.barred}
        return [record for record in records if record.trial in barred]

    def ended_on(self, place: tuple[str, int]) -> list[Record]:
        """The stopped trials that belong on a map."""
        own = [record for record in self.stopped if record.group == place]
        return [record for record in own if {WEIGHT, STEP} <= record.params.keys()]

    @property
    def num_samples(self) -> int:
        """Validation images. Raises IndexError without a trial."""
        return int(self.complete[0].metrics["validation/num_samples"])

    @property
    def ipcs(self) -> list[int]:
        """Images per class of the trials, ascending, each once."""
        return sorted({record.group[1] for record in self.complete})

    def clouds(self, *, by_ipc: bool = True) -> list[Cloud]:
        """By method, and by IPC if wanted, in order; with a penalty before without."""
        groups: dict[tuple[str | int, ...], list[Record]] = {}
        for record in sorted(self.complete, key=lambda record: record.group):
            groups.setdefault(record.group if by_ipc else record.group[:1], []).append(record)
        found = []
        for look, records in enumerate(groups.values()):
            config = TrialConfig.from_dict(records[0].config)
            where = place(config) if by_ipc else config.method
            for control in (False, True):
                own = [record for record in records if record.control == control]
                label = joined(where, "unregularized" if control else "regularized")
                found.append(Cloud(label=label, look=look, control=control, records=own))
        return [cloud for cloud in found if cloud.records]


def points(records: Iterable[Record]) -> tuple[list[float], list[float]]:
    """Clean and robust validation accuracies, in [0, 1]."""
    scores = [record.objectives for record in records]
    return [clean for clean, _ in scores], [robust for _, robust in scores]
