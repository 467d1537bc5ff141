"""The metrics of a study's own run, which grow while it runs: a function of its folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tune import timeline
from tune.results.folder import StudyFolder
from tune.results.growth import Growth, in_order
from tune.results.records import Record
from tune.timeline import USAGE
from tune.tracking.held import Point
from tune.tracking.wanted import lasting, same

INTERVAL_S = 10.0
"""They are told this seldom, so that a short trial takes no request for them."""


class Live:
    """What has yet to be told: for each run that has ended what the study has come to then, by the
    number of those, and for each computation of a stage what its worker took, by its number."""

    def __init__(
        self,
        folder: StudyFolder,
        max_clean_drop: float,
        there: Mapping[str, float],
        records: Iterable[Record],
    ) -> None:
        """there: the last value of each metric that MLflow has."""
        self._folder, self._max_clean_drop = folder, max_clean_drop
        self._growth, self._records = Growth(max_clean_drop), dict[str, Record]()
        self._pending: list[Point] = []
        self._stages: Counter[str] = Counter()
        """Computations of each stage that have been seen."""
        self._spans = 0
        for record in in_order(records):
            self.add(record)
        self._pending += self._usage()
        if all(same(there.get(point.name), point.value) for point in lasting(self._pending)):
            self._pending = []
        self._told_at = time.monotonic()

    def add(self, record: Record) -> None:
        """A run has ended; nothing if that is known. With one in the place of another all is told
        anew."""
        before = self._records.get(record.label)
        if before is not None and before.ended == record.ended:
            return
        self._records[record.label] = record
        if before is None:
            self._pending += self._points(record)
            return
        self._growth = Growth(self._max_clean_drop)
        every = in_order(self._records.values())
        self._pending = [point for own in every for point in self._points(own)]

    def _points(self, record: Record) -> list[Point]:
        figures = self._growth.add(record)
        step, at = self._growth.num_ended, round(1000 * record.ended) or None
        return [Point(name, value, step, at=at) for name, value in figures.items()]

    def is_due(self) -> bool:
        return time.monotonic() - self._told_at > INTERVAL_S

    def pending(self) -> list[Point]:
        self._pending += self._usage()
        return self._pending

    def delivered(self) -> None:
        """What was pending."""
        self._pending, self._told_at = [], time.monotonic()

    def _usage(self) -> Iterator[Point]:
        """What workers took for the stages that they have computed since."""
        spans = timeline.read(self._folder.path)
        for span in spans[self._spans :]:
            self._stages[span.stage] += 1
            step, at = self._stages[span.stage], round(1000 * span.end)
            for name in USAGE:
                value = getattr(span, name)
                if value:
                    yield Point(f"system/{span.stage}/{name}", value, step, at=at)
        self._spans = len(spans)
