"""The metrics of a study's own run, which grow while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from tune import timeline
from tune.results.folder import StudyFolder
from tune.results.growth import Growth, in_order
from tune.results.records import Record
from tune.timeline import USAGE
from tune.tracking.held import Point
from tune.tracking.wanted import lasting, same

STEPS = "num_trials"
"""The metric that says how far the curves go."""
INTERVAL_S = 10.0
"""They are told this seldom, so that a short trial takes no request for them."""


class Live:
    """What has yet to be told: at each step, which is the end of a run, what the study has come to,
    and for each computation of a stage, by its number, what its worker took."""

    def __init__(
        self,
        folder: StudyFolder,
        max_clean_drop: float,
        there: Mapping[str, float],
        last_step: int,
        records: Iterable[Record],
    ) -> None:
        """there: the last value of each metric that MLflow has; last_step: of the curves, 0 where
        there are none yet. Then they are made from the records, as these ended; otherwise they go
        on."""
        self._folder, self._max_clean_drop = folder, max_clean_drop
        self._growth, self._records = Growth(max_clean_drop), dict[str, Record]()
        self._step, self._pending = 0, list[Point]()
        self._stages: Counter[str] = Counter()
        """Computations of each stage that have been seen."""
        self._spans = 0
        for record in in_order(records):
            self.add(record)
        if last_step:
            last = self._pending[-len(self._growth.figures) :]
            is_told = all(same(there.get(point.name), point.value) for point in last)
            self._step = last_step + (not is_told)
            self._pending = [] if is_told else [replace(own, step=self._step) for own in last]
        usage = list(self._usage())
        if not all(same(there.get(point.name), point.value) for point in lasting(usage)):
            self._pending += usage
        self._told_at = time.monotonic()

    def add(self, record: Record) -> None:
        """A run has ended, or one that had ended has gone on; nothing if that is known."""
        before = self._records.get(record.label)
        if before is not None and before.ended == record.ended:
            return
        self._records[record.label] = record
        if before is None:
            self._growth.add(record)
        else:
            self._growth = Growth(self._max_clean_drop)
            for own in in_order(self._records.values()):
                self._growth.add(own)
        self._step += 1
        at = round(1000 * record.ended) or None
        figures = self._growth.figures.items()
        self._pending += [Point(name, value, self._step, at=at) for name, value in figures]

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
