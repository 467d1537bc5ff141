"""Tune's events on the driver: tables, tracking and progress follow the records on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import ray
from ray import tune as ray_tune

from guard.errors import StudyError
from tune.asking import Timeline
from tune.causes import unwrapped
from tune.desk import DeskStatus
from tune.places import full_disk, told
from tune.results.folder import StudyFolder
from tune.results.records import Record, one_line
from tune.results.standing import Standing
from tune.tracking.tracker import Tracker
from tune.trainable import NUMBER, StudyContext, split_sample

TICK_S = 0.5
DIED = "the trial's process died"


class Watcher(Protocol):
    """What shows a person how a study goes on."""

    def finished(self, record: Record, best: Record | None) -> None: ...

    def tick(self, status: DeskStatus) -> None: ...

    def say(self, line: str) -> None: ...


class Ending(ray_tune.Stopper):
    """Ends a search early. As a context it keeps a StudyError from inside, and ends it for that:
    Tune would make a trace of it."""

    def __init__(self) -> None:
        self.error: StudyError | None = None
        self.is_set = False

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, StudyError):
            return False
        self.error, self.is_set = error, True
        return True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.is_set


class StudyCallback(ray_tune.Callback):
    """Keeps results.csv, pareto.csv, best.json and MLflow up to date, and tells the watcher. It
    ends the search (`ending`) when nothing can be written, or too many trials in a row fail.

    Nothing that it does for a trial takes longer for a longer study.
    """

    def __init__(
        self,
        context: StudyContext,
        desk: Any,
        tracker: Tracker,
        timeline: Timeline,
        watcher: Watcher,
        standing: Standing,
        max_failures: int = 0,
    ) -> None:
        self._context, self._desk, self._tracker = context, desk, tracker
        self._timeline, self._watcher, self._standing = timeline, watcher, standing
        self._max_failures, self._failures = max_failures, 0
        self._last_tick = 0.0
        self.ending = Ending()

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
            metrics, seconds = json.loads(result["metrics"]), result["time_total_s"]
            self._tracker.stage(number, config, params, metrics, seconds)
            return
        with self.ending:
            record = self._folder.read(number)
            if record is not None:
                self._settle(record)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config.get(NUMBER)
        with self.ending:
            reason = self._reason(trial)
            self._watcher.say(f"trial {number} failed and is tried again: {reason}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config.get(NUMBER)
        if number is None:
            return
        with self.ending:
            reason, record = self._reason(trial), self._folder.read(number)
            if record is None or not record.finished or record.status == "stopped":
                params, control = split_sample(trial.config)
                config = self._context.config(params, control)
                about = {"trial": number, "config": config, "params": params, "control": control}
                record = Record.failed(reason, **about)
                self._folder.write(record)
            self._settle(record)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last_tick < TICK_S:
            return
        self._last_tick = time.monotonic()
        with self.ending:
            self._timeline.update()
            self._standing.write_tables_now_and_then()
        try:
            self._watcher.tick(ray.get(self._desk.status.remote(), timeout=2))
        except ray.exceptions.RayError:  # the desk is busy or restarting: the next tick will do
            return

    def _settle(self, record: Record) -> None:
        if record.status == "stopped":  # it may go on
            self._tracker.pause(record)
        else:
            self._tracker.finish(record)
        self._standing.add([record])
        self._watcher.finished(record, self._standing.best)
        self._failures = 0 if record.finished else self._failures + 1
        if 0 < self._max_failures <= self._failures:
            self._watcher.say(
                f"{self._failures} trials in a row have failed, so the search ends "
                f"(search.max_failures = {self._max_failures}); the last: {record.reason}"
            )
            self.ending.is_set = True

    def _reason(self, trial: Any) -> str:
        """Why a trial failed, in a line. Raises StudyError for what all others would fail for:
        nothing can be written."""
        file = trial.pickled_error_file  # what Tune would read itself is a copy of it, made later
        error = ray.cloudpickle.loads(Path(file).read_bytes()) if file else None
        if error is None or isinstance(error, ray.exceptions.RayActorError):
            return DIED
        full = full_disk(error)
        if full is not None:
            raise StudyError(told(full, self._folder.output))
        cause = unwrapped(error)
        if isinstance(cause, StudyError):
            raise cause
        return one_line(error)
