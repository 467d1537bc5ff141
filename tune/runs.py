"""Trials that are known beforehand: done a few at a time, recorded, not done again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Any

from guard.errors import StudyError
from guard.pipeline import RunStage, run_trial
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg
from tune.places import full_disk, told
from tune.results.folder import StudyFolder
from tune.results.records import SEARCH, Record, one_line

TICK_S = 0.5
TRIES = 2
"""Of a trial, before it is recorded as failed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial that is to be done."""

    trial: int
    config: TrialConfig
    params: Mapping[str, Any]
    """What sets it apart, by path."""
    control: bool
    phase: str = SEARCH
    leg: Leg = WHOLE

    @property
    def about(self) -> dict[str, Any]:
        """What its record says of it."""
        return {own.name: getattr(self, own.name) for own in fields(self) if own.name != "leg"}


def run_all(
    folder: StudyFolder,
    runs: Iterable[Run],
    run_stage: Callable[[threading.Event], RunStage],
    slots: int,
    finished: Callable[[Record], None],
    tick: Callable[[], None],
) -> None:
    """Do the runs, `slots` at a time, and write their records.

    `finished` hears of each one, `tick` is called while others run, both on this thread. What
    `run_stage` makes raises once the event is set: then an interrupt leaves no thread behind. A run
    that raises is tried once more. Raises StudyError for a disk without room.
    """
    stop = threading.Event()

    def work(run: Run) -> Record:
        reason = ""
        for _ in range(TRIES):
            try:
                return Record.of(run_trial(run.config, run_stage(stop), leg=run.leg), **run.about)
            except Exception as error:
                full, reason = full_disk(error), one_line(error)
                if full is not None:
                    raise StudyError(told(full, folder.output)) from None
            if stop.is_set():
                break
        return Record.failed(reason, **run.about)

    pool = ThreadPoolExecutor(slots)
    left: set[Future[Record]] = {pool.submit(work, run) for run in runs}
    try:
        while left:
            done, left = wait(left, TICK_S, FIRST_COMPLETED)
            for future in done:
                folder.write(future.result())
                finished(future.result())
            tick()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def unfinished(runs: Iterable[Run], records: Iterable[Record]) -> list[Run]:
    """The runs without a record of the same config that is done."""
    known = {record.fingerprint for record in records if record.is_done}
    return [run for run in runs if run.config.fingerprint() not in known]
