"""Trials that are known beforehand: done a few at a time, recorded, not done again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields
from typing import Any

from guard.pipeline import RunStage, run_trial
from guard.trial import TrialConfig
from tune.results.folder import StudyFolder
from tune.results.records import SEARCH, Record, one_line

TICK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial that is to be done."""

    trial: int
    config: TrialConfig
    params: Mapping[str, Any]
    """What sets it apart, by path."""
    control: bool
    phase: str = SEARCH


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
    `run_stage` makes raises once the event is set: then an interrupt leaves no thread behind.
    """
    stop = threading.Event()

    def work(run: Run) -> Record:
        about: dict[str, Any] = {field.name: getattr(run, field.name) for field in fields(run)}
        try:
            result = run_trial(run.config, run_stage(stop))
        except Exception as error:
            return Record.failed(one_line(error), **about)
        return Record.of(result, **about)

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
    """The runs without a finished record of the same config."""
    known = {record.fingerprint for record in records if record.finished}
    return [run for run in runs if run.config.fingerprint() not in known]
