"""Which trials of a search are worth a second look: the Pareto front, and the choice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tune.results.records import SEEDS, Record

PLACE = ("method", "ipc", *SEEDS)
"""What a search's own values are had for each value of."""


def pareto_front(records: Iterable[Record]) -> list[Record]:
    """Complete trials that no other one beats in both objectives, the cleanest first; equals by
    trial number."""
    complete = [record for record in records if record.status == "complete"]
    complete.sort(key=lambda record: (*(-v for v in record.objectives), record.trial))
    front: list[Record] = []
    for record in complete:
        last = front[-1].objectives if front else (1.0, -1.0)
        if record.objectives == last or record.objectives[1] > last[1]:
            front.append(record)
    return front


class Controls:
    """The unregularized trials of a search that are complete, by what they control."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._same: dict[tuple[tuple[str, int], str], Record] = {}
        self._group: dict[tuple[str, int], Record] = {}
        for record in records:
            if record.control and record.status == "complete":
                _keep_most_robust(self._same, _drawn(record), record)
                _keep_most_robust(self._group, record.group, record)

    def of(self, record: Record) -> Record | None:
        """The unregularized trial that is otherwise the same; if none is (a field other than the
        regularizer's is searched on a scale), the most robust one of the same method and IPC."""
        return self._same.get(_drawn(record)) or self._group.get(record.group)


def control_of(record: Record, records: Iterable[Record]) -> Record | None:
    """What a trial is held against (`Controls.of`)."""
    return Controls(records).of(record)


def clean_excess(record: Record, control: Record | None, max_clean_drop: float) -> float:
    """Clean validation accuracy that a trial has lost to its control, less what it may lose: above
    0 it breaks the constraint, as all of it does without a control."""
    if control is None:
        return 1.0
    return control.objectives[0] - max_clean_drop - record.objectives[0]


def barred(records: Iterable[Record], max_clean_drop: float) -> dict[int, str]:
    """Why the complete trials of a search that must not be chosen must not be, by their numbers."""
    records = list(records)
    controls = Controls(records)
    found = {}
    for record in (own for own in records if own.status == "complete"):
        control = controls.of(record)
        if control is None:
            found[record.trial] = "it has no control"
        elif clean_excess(record, control, max_clean_drop) > 0:
            lost = control.objectives[0] - record.objectives[0]
            found[record.trial] = (
                f"loses {lost:.3f} of its control's clean accuracy, {max_clean_drop:.3f} is allowed"
            )
    return found


def allowed(records: Iterable[Record], max_clean_drop: float) -> list[Record]:
    """The complete trials whose clean accuracy, on validation, is within `max_clean_drop` of their
    control's. None before a control is complete."""
    records = list(records)
    controls = Controls(records)
    return [
        record
        for record in records
        if record.status == "complete"
        and clean_excess(record, controls.of(record), max_clean_drop) <= 0
    ]


def choose(records: Iterable[Record], max_clean_drop: float) -> Record | None:
    """The most robust trial, on validation, of those that are `allowed`. The cleaner, then the
    earlier one wins a tie."""
    found = allowed(records, max_clean_drop)
    return max(found, key=lambda r: (r.objectives[1], r.objectives[0], -r.trial), default=None)


def start_of(choice: Record, records: Iterable[Record], base: Mapping[str, Any]) -> Record | None:
    """The trial at a search's own values, of the choice's method and images per class; None where
    no trial of the search has been there. base: the search's values by path."""

    def is_start(record: Record) -> bool:
        apart = {k: v for k, v in record.params.items() if k not in PLACE}
        is_here = record.is_search and not record.control and record.group == choice.group
        return is_here and all(base.get(path) == value for path, value in apart.items())

    return next(filter(is_start, records), None)


def _drawn(record: Record) -> tuple[tuple[str, int], str]:
    """Method, IPC and what else was drawn for it, but for the regularizer's fields."""
    return record.group, json.dumps(record.unregularized, sort_keys=True)


def _keep_most_robust(found: dict[Any, Record], key: Any, record: Record) -> None:
    """Under a key; the earlier one of equally robust ones."""
    known = found.get(key)
    if known is None or _robust(record) > _robust(known):
        found[key] = record


def _robust(record: Record) -> tuple[float, int]:
    return record.objectives[1], -record.trial
