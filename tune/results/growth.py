"""What a study has come to after each of its runs."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator

from tune.results.front import choose
from tune.results.records import OBJECTIVES, STATUSES, Record


class Growth:
    """A study's figures as its runs end. A search's best is what it would choose: the most robust
    trial on validation within `max_clean_drop` of its control's clean accuracy."""

    def __init__(self, max_clean_drop: float) -> None:
        self._max_clean_drop = max_clean_drop
        self._states: Counter[str] = Counter()
        self._stage_seconds = 0.0
        self._complete: list[Record] = []
        self._controls: list[Record] = []
        self._front = Front()
        self._best: Record | None = None

    def add(self, record: Record) -> dict[str, float]:
        """The figures with one run more, by the name of a metric."""
        self._stage_seconds += record.stage_seconds
        if record.is_search:
            self._states[record.status] += 1
            if record.status == "complete" and OBJECTIVES[1] in record.metrics:
                self._search(record)
        return self.figures

    def _search(self, record: Record) -> None:
        self._complete.append(record)
        self._front.add(*record.objectives)
        rivals = [*self._controls, *([self._best] if self._best else []), record]
        if record.control:
            self._controls.append(record)
            rivals = self._complete  # those that it controls may be allowed now
        self._best = choose(rivals, self._max_clean_drop)

    @property
    def figures(self) -> dict[str, float]:
        found = {f"trials/{status}": float(self._states[status]) for status in STATUSES}
        found |= {"num_trials": float(self._states.total()), "stage_seconds": self._stage_seconds}
        if self._complete:
            found["hypervolume"] = self._front.hypervolume
        if self._best is not None:
            named = zip(OBJECTIVES, self._best.objectives, strict=True)
            found |= {f"best/{name}": value for name, value in named}
        return found


class Front:
    """Points of two objectives that no other one beats in both; both are shares that are to be
    large."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        """By the first objective; the second falls."""

    def add(self, first: float, second: float) -> None:
        place = bisect.bisect_left(self._points, (first, second))
        if any(other >= second for _, other in self._points[place : place + 1]):
            return
        start = place
        while start > 0 and self._points[start - 1][1] <= second:
            start -= 1
        self._points[start:place] = [(first, second)]

    @property
    def hypervolume(self) -> float:
        """The area between the points and (0, 0)."""
        area = left = 0.0
        for first, second in self._points:
            area += (first - left) * second
            left = first
        return area


def in_order(records: Iterable[Record]) -> Iterator[Record]:
    """As they ended; those of before that was kept come first, by number."""
    return iter(sorted(records, key=lambda record: (record.ended, record.trial)))
