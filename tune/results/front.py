"""Which trials of a search are worth a second look: the Pareto front, and the choice."""

from __future__ import annotations

from collections.abc import Iterable

from tune.results.records import Record


def pareto_front(records: Iterable[Record]) -> list[Record]:
    """Complete trials that no other one beats in both objectives, the cleanest first."""
    complete = [record for record in records if record.status == "complete"]
    front = [
        record
        for record in complete
        if not any(dominates(other.objectives, record.objectives) for other in complete)
    ]
    return sorted(front, key=lambda record: (*(-v for v in record.objectives), record.trial))


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a is nowhere below b, and not the same."""
    return a[0] >= b[0] and a[1] >= b[1] and a != b


def control_of(record: Record, records: Iterable[Record]) -> Record | None:
    """The unregularized trial that is otherwise the same; if none is (a field other than the
    regularizer's is searched on a scale), the most robust one of the same method and IPC."""
    controls = [
        r for r in records if r.control and r.status == "complete" and r.group == record.group
    ]
    same = [control for control in controls if control.unregularized == record.unregularized]
    return max(same or controls, key=lambda r: (r.objectives[1], -r.trial), default=None)


def choose(records: Iterable[Record], max_clean_drop: float) -> Record | None:
    """The most robust trial, on validation, whose clean accuracy is within `max_clean_drop` of its
    control's. The cleaner, then the earlier one wins a tie. None before a control is complete."""
    records = list(records)
    allowed = [
        record
        for record in records
        if record.status == "complete"
        and (control := control_of(record, records)) is not None
        and record.objectives[0] >= control.objectives[0] - max_clean_drop
    ]
    return max(allowed, key=lambda r: (r.objectives[1], r.objectives[0], -r.trial), default=None)
