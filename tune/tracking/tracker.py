"""A study's delivery to MLflow, on the driver.

A server that is away, slow or ill costs no trial a second: all calls are made in the background,
again until they succeed, and in the end it is said what is not delivered. The next run of the
command, or this one once the server is back, delivers it from the study's folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guard.trial import TrialConfig
from tune.options import MAX_CLEAN_DROP
from tune.results import wording
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.tracking.courier import Courier, Job
from tune.tracking.mirror import Mirror
from tune.tracking.store import Store
from tune.tracking.wanted import trial_tags

STUDY = ""
"""The label of what is for the study's own run."""
SHOW_INTERVAL_S = 60.0
"""A running trial's metrics are sent this seldom, so a short trial takes no request for them."""


@dataclass(kw_only=True)
class Running:
    """A trial that has no record yet."""

    config: TrialConfig
    params: Mapping[str, Any]
    began: float
    """By the monotonic clock."""
    shown: float
    """When MLflow heard of its metrics last; at first, when it began."""
    metrics: dict[str, float] = field(default_factory=dict)


class Tracker:
    """Delivers a study to MLflow. It waits for nothing but in `close`, and raises nothing."""

    def __init__(
        self,
        folder: StudyFolder,
        store: Store,
        note: str = "",
        command: str = "",
        max_clean_drop: float = MAX_CLEAN_DROP,
    ) -> None:
        """command: the module that is the study's command, such as studies.sweep. max_clean_drop:
        of a search."""
        self._folder, self._note = folder, note
        self._mirror = Mirror(folder, store, note, command, max_clean_drop)
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()
        """Of `_running`."""
        self._labels: set[str] = set()
        """Of the trials that are to be there."""
        self.trouble = ""
        """Once it is closed: what MLflow has not got, and why, in one line."""
        self._courier = Courier(self._mirror.look, self._mirror.forget)
        self._add_others()

    def start(self) -> None:
        """Trials are about to run."""
        self._courier.add(Job(STUDY, self._mirror.resume))

    def stage(
        self,
        number: int,
        config: TrialConfig,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        seconds: float = 0.0,
    ) -> None:
        """Metrics of one heading of a trial that has been running for so long."""
        label, began = str(number), time.monotonic() - seconds
        with self._lock:
            if label not in self._running:
                trial = Running(config=config, params=params, began=began, shown=began)
                self._running[label] = trial
            self._running[label].metrics.update(metrics)
        self._courier.add(Job(label, lambda: self._show(label)))

    def _show(self, label: str) -> None:
        with self._lock:
            trial = self._running.get(label)
            metrics = dict(trial.metrics) if trial else {}
        if trial is None:  # it has finished
            return
        now = time.monotonic()
        tags = trial_tags(label, trial.config.fingerprint(), trial.config.seed)
        name = wording.title(trial.config, trial.params)
        run = self._mirror.begin(name, tags, now - trial.began)
        if now - trial.shown > SHOW_INTERVAL_S:
            self._mirror.show(run, metrics)
            trial.shown = now
        self._mirror.grow()

    def finish(self, record: Record) -> None:
        """A trial's record is in the folder."""
        label = record.label
        with self._lock:
            self._running.pop(label, None)
        self._labels.add(label)
        self._courier.add(self._settling(label))

    def pause(self, record: Record) -> None:
        """A search has stopped a trial, which may go on: the study's curves say so."""
        self._courier.add(Job(record.label, lambda: self._mirror.grow(record)))

    def _add_others(self) -> None:
        """Trials that it was not told of, but that the folder has."""
        for label in (record.label for record in self._folder.every_record()):
            if label not in self._labels:
                self._labels.add(label)
                self._courier.add_later(self._settling(label))

    def _settling(self, label: str) -> Job:
        return Job(label, lambda: self._settle(label))

    def _settle(self, label: str) -> None:
        self._mirror.settle(label)
        self._mirror.grow()

    def close(
        self,
        records: list[Record],
        status: str | None = "FINISHED",
        answer: str = "",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Complete the study's own run with its answer before the note, and wait until everything
        is delivered, or until that goes no further: then there is `trouble`.

        status: of the study's run; None: what it has. say: told once if it takes long.
        """
        note = f"{answer}\n\n{self._note}" if answer else self._note
        self._add_others()
        last = Job(STUDY, lambda: self._mirror.close(records, status, note))
        if self._courier.close(last, lambda: say(f"delivering {self.backlog} trials to MLflow …")):
            return
        refused = set(self._courier.refused) - {STUDY}
        missing = {label for label in self._labels if not self._mirror.has(label)} | refused
        what = f"{len(missing)} trials are" if missing else "the study's own run is"
        why = self._courier.why or "it is slow"
        self.trouble = f"MLflow: {what} not delivered yet ({why}); the same command delivers them"

    @property
    def backlog(self) -> int:
        """Trials that are not delivered yet."""
        return sum(not self._mirror.has(label) for label in self._labels.copy())
