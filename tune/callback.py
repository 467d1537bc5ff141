"""Tune's events on the driver: tables, tracking and progress follow the records on disk."""

from __future__ import annotations

import time
from typing import Any, Protocol

import ray
from ray import tune as ray_tune

from tune.desk import DeskStatus
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.results.records import Record
from tune.timeline import Timeline
from tune.tracking import Tracker
from tune.trainable import NUMBER, StudyContext, split_sample

TICK_S = 0.5


class Watcher(Protocol):
    """What shows a person how a study goes on."""

    def finished(self, record: Record, best: Record | None) -> None: ...

    def tick(self, status: DeskStatus) -> None: ...


class StudyCallback(ray_tune.Callback):
    """Keeps results.csv, pareto.csv, best.json and MLflow up to date, and tells the watcher."""

    def __init__(
        self,
        context: StudyContext,
        desk: Any,
        tracker: Tracker,
        timeline: Timeline,
        watcher: Watcher,
        max_clean_drop: float,
    ) -> None:
        self._context, self._desk, self._tracker = context, desk, tracker
        self._timeline = timeline
        self._watcher, self._max_clean_drop = watcher, max_clean_drop
        self._last_tick = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore them; here the folder is the state

    @property
    def _folder(self) -> StudyFolder:
        return self._context.folder

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = result.get(NUMBER)
        if number is None:
            return
        if result["heading"] != "done":
            params, control = split_sample(trial.config)
            config = self._context.config(params, control)
            self._tracker.stage(number, config, params, result["metrics"])
            return
        record = self._folder.read(number)
        if record is not None:
            self._settle(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config.get(NUMBER)
        if number is None:
            return
        record = self._folder.read(number)
        if record is None:  # the coordinator's own process died
            params, control = split_sample(trial.config)
            config = self._context.config(params, control)
            record = Record.failed(
                "the trial's process died",
                trial=number,
                config=config,
                params=params,
                control=control,
            )
            self._folder.write(record)
        self._settle(record)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last_tick < TICK_S:
            return
        self._last_tick = time.monotonic()
        try:
            self._watcher.tick(ray.get(self._desk.status.remote(), timeout=2))
        except ray.exceptions.RayError:  # the desk is busy or restarting: the next tick will do
            return

    def _settle(self, record: Record) -> None:
        self._tracker.finish(record)
        self._timeline.update()
        records = self._folder.records()
        best = choose(records, self._max_clean_drop)
        self._folder.write_tables(records, best)
        self._watcher.finished(record, best)
