"""What a search has come to while it runs: its records in memory, and its tables now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable

from tune.results.folder import StudyFolder
from tune.results.front import Controls, choose, clean_excess
from tune.results.records import Record

TABLES_EVERY_S = 5.0
MAX_SHARE = 0.05
"""Of the time, that tables may take: they grow with the study."""


class Standing:
    """The records of a search, read once; what is added is on the disk already."""

    def __init__(self, folder: StudyFolder, max_clean_drop: float) -> None:
        self.folder = folder
        self.max_clean_drop = max_clean_drop
        """Clean validation accuracy that the choice may lose to its control."""
        self._records = {record.trial: record for record in folder.records()}
        self._controls: Controls | None = None
        self._is_stale, self._next_s = True, 0.0
        self.best: Record | None = None
        """What the search would choose, as of the tables on the disk."""

    @property
    def records(self) -> list[Record]:
        """By trial number."""
        return [self._records[number] for number in sorted(self._records)]

    @property
    def num_done(self) -> int:
        """Trials that are finished, with all that is read of them still there."""
        return sum(record.is_done for record in self._records.values())

    def of(self, trial: int) -> Record | None:
        return self._records.get(trial)

    def add(self, records: Iterable[Record]) -> None:
        """In the place of earlier ones of the same trials."""
        added = {record.trial: record for record in records}
        self._records |= added
        self._is_stale = True
        if any(record.control for record in added.values()):
            self._controls = None

    def control_of(self, record: Record) -> Record | None:
        """What a trial is held against (`Controls.of`)."""
        if self._controls is None:
            self._controls = Controls(self._records.values())
        return self._controls.of(record)

    def excess_of(self, record: Record) -> float:
        """By how much a trial breaks the constraint (`clean_excess`)."""
        return clean_excess(record, self.control_of(record), self.max_clean_drop)

    def forget_failure(self, trial: int) -> None:
        """Remove the record, here and on the disk, of a trial that failed and is repeated."""
        record = self.of(trial)
        if record is not None and not record.finished:
            self.folder.remove(self._records.pop(trial))
            self._is_stale = True

    def choice(self) -> Record | None:
        """The trial that the search chooses now."""
        return choose(self.records, self.max_clean_drop)

    def write_tables(self) -> None:
        """Raises StudyError if they cannot be written for half a minute."""
        records = self.records
        self.best, self._is_stale = choose(records, self.max_clean_drop), False
        self.folder.write_tables(records, self.best, self.max_clean_drop)

    def write_tables_now_and_then(self) -> None:
        """If there is something new, and the last time is some seconds ago, or longer for tables
        that take long."""
        start = time.monotonic()
        if self._is_stale and start >= self._next_s:
            self.write_tables()
            end = time.monotonic()
            self._next_s = end + max(TABLES_EVERY_S, (end - start) / MAX_SHARE)
