"""A study's runs in MLflow, kept like the study's folder.

The folder has everything, so what is not delivered yet is nowhere else. What MLflow has is asked
once, in pages, and again after every failure: a call that failed may have been carried out. Times
follow from a run's start, so what is sent a second time makes the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from guard.trial import TrialConfig
from tune.results.folder import StudyFolder
from tune.results.front import barred, choose
from tune.results.growth import in_order
from tune.results.records import Record
from tune.tracking.held import THIS_RUN, Held, HeldModel, Point, Student, milliseconds
from tune.tracking.identity import identity, remember_page
from tune.tracking.live import STEPS, Live
from tune.tracking.products import real_images
from tune.tracking.provenance import version_tags
from tune.tracking.store import Store
from tune.tracking.view import BARRED, TAG, envelope, linked, page, state_of
from tune.tracking.wanted import (
    FINGERPRINT,
    ID,
    NOTE,
    PARENT,
    STUDY,
    TRIAL,
    Wanted,
    differs,
    lasting,
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

    def __init__(
        self,
        folder: StudyFolder,
        store: Store,
        note: str,
        command: str,
        max_clean_drop: float,
    ) -> None:
        """command: the module that is the study's command. max_clean_drop: of a search."""
        self._folder, self._store, self._note = folder, store, note
        self._max_clean_drop, self._title = max_clean_drop, f"study {folder.name}"
        self._study = {STUDY: folder.name, ID: identity(folder, store.name)}
        """Tags of every run of the study."""
        self._versions = version_tags(command)
        self._is_known = False
        self._runs: dict[str, Held] = {}
        """By label."""
        self._models: Mapping[str, Sequence[HeldModel]] = {}
        """By the run that made them."""
        self._left: dict[str, list[Held]] = {}
        """By fingerprint: unfinished runs of trials that have no record."""
        self._begun: set[str] = set()
        """Labels of trials of this process."""
        self._made: set[str] = set()
        """Runs of this process, by their own name."""
        self._complete: set[str] = set()
        """Labels of runs that have everything, as far as a search says."""
        self._checked: dict[str, float] = {}
        """When trials ended whose artifacts are known to be there too, by label."""

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
        self._models = self._students()
        for run in self._found():
            self._take(run, records)
        if STUDY_RUN not in self._runs:
            note = linked(self._note, self._page)
            tags = {**self._versions, **self._study, TRIAL: STUDY_RUN, NOTE: note}
            self._runs[STUDY_RUN] = self._store.create(self._title, tags, milliseconds())
        study = self._runs[STUDY_RUN]
        if study.deleted:
            self._store.restore(study)
        self._complete = {
            label for label in self._complete if self._runs[label].tags[PARENT] == study.run_id
        }
        step = self._store.last_step(study, STEPS) if STEPS in study.metrics else 0
        known = (self._folder, self._max_clean_drop, study.metrics, step)
        self._live = Live(*known, records.values())
        self._is_known = True

    def _found(self) -> Iterator[Held]:
        """The study's runs. In its own output they are known by its name, also those of before a
        study had an identity; elsewhere, and once it is renamed, by that."""
        for name in self._names:
            are_found = False
            for run in self._store.runs({name: self._study[name]}):
                if run.tags.get(ID, self._study[ID]) == self._study[ID]:
                    are_found = True
                    yield run
            if are_found:
                return

    def _students(self) -> dict[str, list[HeldModel]]:
        """Logged models by the run that made them: at least all of the study's."""
        for name in self._names:
            found: dict[str, list[HeldModel]] = {}
            for run_id, model in self._store.models({name: self._study[name]}):
                found.setdefault(run_id, []).append(model)
            if found:
                return found
        return {}

    @property
    def _names(self) -> list[str]:
        """Tags by which the study's runs are known."""
        return [STUDY, ID] if self._store.is_own else [ID]

    def _take(self, run: Held, records: Mapping[str, Record]) -> None:
        """Sort a run in: of a trial, the study's own, left unfinished, or one too many."""
        label, fingerprint = run.tags.get(TRIAL, ""), run.tags.get(FINGERPRINT, "")
        models = self._models.get(run.run_id, [])
        for model in sorted(models, key=lambda model: model.model_id not in run.outputs):
            if run.model is None:
                run.model = model
            else:  # made by a call that was not answered
                self._store.delete_model(model)
        record = records.get(label)
        if record is None and label != STUDY_RUN and label not in self._begun:
            if run.status != "FINISHED" and not run.deleted:
                self._left.setdefault(fingerprint, []).append(run)
            return
        if record is not None and fingerprint != record.fingerprint:
            self._drop(run)  # the folder had another trial of that number
            return
        other = self._runs.get(label)
        if other is not None and other.rank <= run.rank:
            self._drop(run)
            return
        if other is not None:
            self._drop(other)
            self._complete.discard(label)
        self._runs[label] = run
        if record is not None and self._wanted(record, self._study).holds(run):
            self._complete.add(label)
            run.params, run.metrics = {}, {}
            run.tags = {name: run.tags.get(name, "") for name in (PARENT, BARRED)}
            if run.model is not None:
                run.model.metrics = {}

    def _wanted(self, record: Record, tags: Mapping[str, str]) -> Wanted:
        return wanted(record, self._folder, tags, self._store.options.largest_set)

    def _drop(self, run: Held) -> None:
        if run.model is not None:
            self._store.delete_model(run.model)
        if not run.deleted and ID in run.tags:
            self._store.delete(run)

    @property
    def _page(self) -> str:
        return page(self._store.experiment_id, self._study[ID])

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
        self._save_view(self._folder.every_record())

    def _save_view(self, records: Sequence[Record]) -> None:
        """The page that the study opens with; its address is kept in the folder."""
        study = self._runs[STUDY_RUN]
        state = state_of(study.run_id, records)
        value = envelope(self._folder.name, study.start, state)
        self._store.tag_experiment(TAG + self._study[ID], value)
        remember_page(self._folder, self._page)

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
            said = {tag: text for tag, text in every.items() if text and THIS_RUN not in text}
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
        if record is None or self._checked.get(label) == record.ended:
            return
        if label in self._checked:  # a trial that was stopped has gone on
            self._complete.discard(label)
        lacking = self._wanted(record, self._of_trials)
        run = self.begin(lacking.name, lacking.tags, record.seconds)
        if run.deleted:
            self._store.restore(run)
        if label not in self._complete:
            self._store.read(run, lacking.images_missing(run))
            if lacking.student is not None and run.model is None:
                run.model = self._store.create_model(run, lacking.student)
            points = lacking.points_missing(run)
            is_other = any(differs(run, last) for last in lasting(points))
            at = milliseconds() if is_other else run.start + round(1000 * record.seconds)
            self._store.log(run, at, points, lacking.params_missing(run), lacking.tags_missing(run))
        is_new = run.run_id in self._made
        sizes = {} if is_new else self._store.sizes(run, lacking.folders)
        self._store.upload(run, lacking.files_missing(sizes))
        if run.model is not None and lacking.student is not None:
            self._settle_model(run, run.model, lacking.student)
        if run.status != lacking.status:
            self._store.end(run, lacking.status, run.start + round(1000 * record.seconds))
            run.status = lacking.status
        run.deleted, run.params, run.metrics = False, {}, {}
        self._complete.add(label)
        self._checked[label] = record.ended
        self._live.add(record)

    def _settle_model(self, run: Held, model: HeldModel, student: Student) -> None:
        """Give a run's logged model, whose metrics are there, what else it lacks."""
        if not student.is_tagged(model):
            self._store.tag_model(model, student.tags)
        if model.model_id not in run.outputs:
            self._store.link(run, model)
            run.outputs.add(model.model_id)
        if not model.is_ready:
            self._store.finish_model(model)
        model.is_ready, model.metrics = True, {}

    def grow(self, stopped: Record | None = None) -> None:
        """Tell what the study has come to, now and then. stopped: a trial that may go on."""
        if stopped is not None:
            self._live.add(stopped)
        if self._live.is_due():
            study = self._runs[STUDY_RUN]
            self._store.log(study, milliseconds(), self._live.pending())
            self._live.delivered()

    def _judge(self, records: Sequence[Record]) -> None:
        """Have it said in the runs of a search's trials which must not be chosen, and why."""
        searched = [own for own in records if own.is_search and own.split == "validation"]
        why = barred(searched, self._max_clean_drop)
        for record in (own for own in searched if own.label in self._complete):
            run, told = self._runs[record.label], why.get(record.trial, "")
            if run.tags.get(BARRED, "") != told:
                self._store.log(run, milliseconds(), tags={BARRED: told})
                run.tags[BARRED] = told

    def _say_what_it_is_of(self, study: Held, records: Sequence[Record]) -> None:
        """The data that a study's trials read, and the student of a search's choice."""
        data = (real_images(TrialConfig.from_dict(record.config)) for record in records[:1])
        self._store.read(study, [own for own in data if own.key not in study.images])
        chosen = choose((own for own in records if own.is_search), self._max_clean_drop)
        run = self._runs.get(chosen.label) if chosen and chosen.split == "validation" else None
        if run is not None and run.model is not None and run.model.model_id not in study.outputs:
            self._store.link(study, run.model)

    def close(self, records: list[Record], status: str | None, note: str) -> None:
        """Complete the study's own run, and end those of trials that were interrupted. status: of
        the study's; None: what it has, and KILLED if it was left running."""
        study = self._runs[STUDY_RUN]
        note = linked(note, self._page)
        self._save_view(records)
        for record in in_order(records):
            self._live.add(record)
        tags = {k: v for k, v in {**self._study, NOTE: note}.items() if study.tags.get(k) != v}
        self._store.log(study, milliseconds(), self._live.pending(), {}, tags)
        self._live.delivered()
        self._judge(records)
        self._say_what_it_is_of(study, records)
        paths = [path for pattern in STUDY_FILES for path in self._folder.path.glob(pattern)]
        self._store.upload(study, {path.name: path for path in sorted(paths)})
        begun = [self._runs[label] for label in self._begun & self._runs.keys() - self._complete]
        for run in [*begun, *(run for runs in self._left.values() for run in runs)]:
            if run.status == "RUNNING":
                self._store.end(run, "KILLED", milliseconds())
                run.status = "KILLED"
        had = "KILLED" if study.status == "RUNNING" else study.status
        self._store.end(study, status or had, milliseconds())
