"""A study's runs in MLflow, kept like the study's folder.

The folder has everything, so what is not delivered yet is nowhere else. What MLflow has is asked
once, in pages, and again after every failure: a call that failed may have been carried out. Times
follow from a run's start, so what is sent a second time makes the same rows.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping

from guard.errors import StudyError
from tune.results.folder import StudyFolder, write_atomically
from tune.results.front import pareto_front
from tune.results.records import OBJECTIVES, Record
from tune.tracking.provenance import version_tags
from tune.tracking.store import Held, Point, Store
from tune.tracking.wanted import (
    FINGERPRINT,
    ID,
    NOTE,
    PARENT,
    STUDY,
    TRIAL,
    same,
    wanted,
)

STUDY_RUN = "parent"
"""What the study's own run has for a trial's label."""
STUDY_FILES = ("*.csv", "*.md", "*.png", "*.html", "best.json")
"""What of a study's folder its own run has."""


class Mirror:
    """For one thread. Every method may raise whatever MLflow does; then `forget`, `look`, and call
    it again."""

    def __init__(self, folder: StudyFolder, store: Store, note: str) -> None:
        self._folder, self._store, self._note = folder, store, note
        self._study = {STUDY: folder.name, ID: identity(folder)}
        """Tags of every run of the study."""
        self._versions = version_tags()
        self._is_known = False
        self._runs: dict[str, Held] = {}
        """By label."""
        self._left: dict[str, list[Held]] = {}
        """By fingerprint: unfinished runs of trials that have no record."""
        self._begun: set[str] = set()
        """Labels of trials of this process."""
        self._made: set[str] = set()
        """Runs of this process, by their own name."""
        self._complete: set[str] = set()
        """Labels of runs that have everything, as far as a search says."""
        self._checked: set[str] = set()
        """Labels of runs whose artifacts are known to be there too."""

    def has(self, label: str) -> bool:
        """Whether the trial is delivered."""
        return label in self._complete

    def forget(self) -> None:
        """What is known may be wrong."""
        self._is_known = False

    def look(self) -> None:
        """Ask what MLflow has, if it is not known; the study's own run is there then."""
        if self._is_known:
            return
        self._store.experiment()
        self._runs, self._left, self._complete = {}, {}, set()
        records = {record.label: record for record in self._folder.every_record()}
        for run in self._found():
            self._take(run, records)
        if STUDY_RUN not in self._runs:
            tags = {**self._versions, **self._study, TRIAL: STUDY_RUN, NOTE: self._note}
            self._runs[STUDY_RUN] = self._store.create(self._title, tags, milliseconds())
        study = self._runs[STUDY_RUN]
        if study.deleted:
            self._store.restore(study)
        self._complete = {
            label for label in self._complete if self._runs[label].tags[PARENT] == study.run_id
        }
        self._is_known = True

    def _found(self) -> Iterator[Held]:
        """The study's runs. In its own output they are known by its name, also those of before a
        study had an identity; elsewhere, and once it is renamed, by that."""
        for name in [STUDY, ID] if self._store.is_own else [ID]:
            are_found = False
            for run in self._store.runs({name: self._study[name]}):
                if run.tags.get(ID, self._study[ID]) == self._study[ID]:
                    are_found = True
                    yield run
            if are_found:
                return

    def _take(self, run: Held, records: Mapping[str, Record]) -> None:
        """Sort a run in: of a trial, the study's own, left unfinished, or one too many."""
        label, fingerprint = run.tags.get(TRIAL, ""), run.tags.get(FINGERPRINT, "")
        record = records.get(label)
        if record is None and label != STUDY_RUN and label not in self._begun:
            if run.status != "FINISHED" and not run.deleted:
                self._left.setdefault(fingerprint, []).append(run)
            return
        if record is not None and fingerprint != record.fingerprint:
            self._drop(run)  # the folder had another trial of that number
            return
        other = self._runs.get(label)
        if other is not None and rank(other) <= rank(run):
            self._drop(run)
            return
        if other is not None:
            self._drop(other)
            self._complete.discard(label)
        self._runs[label] = run
        if record is not None and wanted(record, self._folder, self._study).holds(run):
            self._complete.add(label)
            run.params, run.metrics = {}, {}
            run.tags = {PARENT: run.tags.get(PARENT, "")}

    def _drop(self, run: Held) -> None:
        if not run.deleted and ID in run.tags:
            self._store.delete(run)

    @property
    def _title(self) -> str:
        return f"study {self._folder.name}"

    @property
    def _of_trials(self) -> dict[str, str]:
        """Tags of every trial's run."""
        return {**self._study, PARENT: self._runs[STUDY_RUN].run_id}

    def _record(self, label: str) -> Record | None:
        if label.isdecimal():
            return self._folder.read(int(label))
        return next((r for r in self._folder.confirmations() if r.label == label), None)

    def resume(self) -> None:
        """The study is at work."""
        self._store.resume(self._runs[STUDY_RUN], self._title)

    def begin(self, name: str, tags: Mapping[str, str], seconds: float) -> Held:
        """The run of a trial that began so many seconds ago: known, left by an earlier process, or
        new. tags: at least `trial_tags`."""
        label = tags[TRIAL]
        if label in self._runs:
            return self._runs[label]
        self._begun.add(label)
        left = self._left.get(tags[FINGERPRINT])
        if left:
            run = left.pop()
            if run.status != "RUNNING":
                self._store.resume(run, name)
                run.status = "RUNNING"
        else:
            every = {**self._versions, **self._of_trials, **tags}
            said = {tag: value for tag, value in every.items() if value}
            run = self._store.create(name, said, milliseconds() - round(1000 * seconds))
            self._made.add(run.run_id)
        self._runs[label] = run
        return run

    def show(self, run: Held, metrics: Mapping[str, float]) -> None:
        """What is known of a running trial."""
        points = [Point(k, v) for k, v in metrics.items() if not same(run.metrics.get(k), v)]
        self._store.log(run, milliseconds(), points)
        run.metrics.update(metrics)

    def settle(self, label: str) -> None:
        """Give a finished trial's run what it lacks."""
        record = self._record(label)
        if label in self._checked or record is None:
            return
        lacking = wanted(record, self._folder, self._of_trials)
        run = self.begin(lacking.name, lacking.tags, record.seconds)
        if run.deleted:
            self._store.restore(run)
        if label not in self._complete:
            points = lacking.points_missing(run)
            is_other = any(point.name in run.metrics for point in points)
            at = milliseconds() if is_other else run.start + round(1000 * record.seconds)
            self._store.log(run, at, points, lacking.params_missing(run), lacking.tags_missing(run))
        is_new = run.run_id in self._made
        sizes = {} if is_new else self._store.sizes(run, lacking.folders)
        self._store.upload(run, lacking.files_missing(sizes))
        if run.status != lacking.status:
            self._store.end(run, lacking.status, run.start + round(1000 * record.seconds))
            run.status = lacking.status
        run.deleted, run.params, run.metrics = False, {}, {}
        self._complete.add(label)
        self._checked.add(label)

    def close(self, records: list[Record], status: str, note: str) -> None:
        """Complete the study's own run, and end those of trials that were interrupted."""
        study = self._runs[STUDY_RUN]
        found = {k: v for k, v in summary(records).items() if not same(study.metrics.get(k), v)}
        tags = {k: v for k, v in {**self._study, NOTE: note}.items() if study.tags.get(k) != v}
        self._store.log(study, milliseconds(), [Point(k, v) for k, v in found.items()], {}, tags)
        paths = [path for pattern in STUDY_FILES for path in self._folder.path.glob(pattern)]
        self._store.upload(study, {path.name: path for path in sorted(paths)})
        begun = [self._runs[label] for label in self._begun & self._runs.keys() - self._complete]
        for run in [*begun, *(run for runs in self._left.values() for run in runs)]:
            if run.status == "RUNNING":
                self._store.end(run, "KILLED", milliseconds())
                run.status = "KILLED"
        self._store.end(study, status, milliseconds())


def summary(records: list[Record]) -> dict[str, float]:
    """The highest clean and robust validation accuracy of a search's front, and its trials."""
    search = [record for record in records if record.is_search]
    front = pareto_front(search)
    found = {name: [r.metrics[name] for r in front if name in r.metrics] for name in OBJECTIVES}
    best = {f"best/{name}": max(values) for name, values in found.items() if values}
    return {**best, "num_trials": float(len(search))}


def rank(run: Held) -> tuple[bool, bool]:
    """The least is the run of a trial that has several."""
    return run.deleted, run.status != "FINISHED"


def identity(folder: StudyFolder) -> str:
    """What tells the study from others of its name, kept in its folder. Raises StudyError for a
    file that does not say it."""
    file = folder.path / "mlflow.json"
    if not file.is_file():
        write_atomically(file, json.dumps({"id": uuid.uuid4().hex}))
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["id"])
    except (ValueError, KeyError, TypeError):
        raise StudyError(
            f'{file}: must be {{"id": …}}; without it MLflow gets every run anew'
        ) from None


def milliseconds() -> int:
    return int(time.time() * 1000)
