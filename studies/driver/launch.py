"""From a checked plan to a finished study on Ray, and what `--dry-run` says of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import optuna
from rich.console import Console

from guard.artifacts import ArtifactStore
from studies.design.about import About, claim
from studies.design.study import Results
from studies.driver.dryrun import print_fields, print_work
from studies.driver.session import Place, Session, close, opened
from studies.presets import Preset
from studies.reporting.page import write_report
from studies.reporting.terminal import print_places, print_summary
from studies.selection import STORY
from tune.callback import StudyCallback
from tune.confirmation import planned
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.results.records import Record
from tune.results.tables import write_comparisons
from tune.runs import Run, unfinished
from tune.search import (
    Plan,
    finished,
    locked,
    num_planned,
    open_study,
    run_study,
    study_context,
)
from tune.space import SearchSpace, describe


def make_plan(
    folder: StudyFolder,
    space: SearchSpace,
    preset: Preset,
    args: argparse.Namespace,
) -> Plan:
    queued = num_planned(space, args.sampler)
    default = queued if args.sampler == "grid" else max(preset.num_trials, queued)
    return Plan(
        folder,
        space,
        args.num_trials or default,
        args.sampler,
        args.sampler_seed,
    )


def run_sweep(
    console: Console, plan: Plan, place: Place, max_clean_drop: float, command: str
) -> int:
    """Everything after the checks: lock the folder, start Ray, run, report."""
    folder = plan.folder
    with locked(folder):
        space = plan.space
        varied = {f"search {k}": describe(v) for k, v in space.distributions.items()}
        about = About(STORY.name, command)
        claim(folder, about, space.base, varied)
        ArtifactStore(folder.artifacts).remove_abandoned()
        sweep = Sweep(plan, open_study(plan), max_clean_drop, about)
        already = finished(sweep.study)
        told = f"study {folder.path}: {already} of {plan.num_trials} trials are finished"
        console.print(told, soft_wrap=True)
        if sweep.is_done:
            results = sweep.write_files()
        else:
            with opened(console, folder, place, about) as session:
                sweep.run(session)
                results = sweep.write_files()
                close(console, session, STORY, results, sweep.is_done)
        print_summary(console, folder.records(), max_clean_drop, list(results.comparisons))
        print_places(console, folder, place.tracking_uri)
        if not sweep.is_done:
            console.print(
                f"\n{sweep.unfinished} are unfinished; what is done is kept. Go on:\n  {command}",
                soft_wrap=True,
            )
            return 1
    return 0


@dataclass
class Sweep:
    """A study in its locked folder: the search, then the confirmation of what it found."""

    plan: Plan
    study: optuna.Study
    max_clean_drop: float
    about: About

    @property
    def folder(self) -> StudyFolder:
        return self.plan.folder

    @property
    def missing_trials(self) -> int:
        return self.plan.num_trials - finished(self.study)

    @property
    def is_done(self) -> bool:
        return self.missing_trials <= 0 and not self.unconfirmed()

    @property
    def unfinished(self) -> str:
        if self.missing_trials > 0:
            return f"{self.missing_trials} trials"
        return f"{len(self.unconfirmed())} runs of the confirmation"

    def best(self) -> Record | None:
        return choose(self.folder.records(), self.max_clean_drop)

    def unconfirmed(self) -> list[Run]:
        runs = planned(self.plan.confirmation, self.folder.records(), self.best())
        return unfinished(runs, self.folder.confirmations())

    def run(self, session: Session) -> None:
        """Search and confirm what is missing."""
        plan, progress = self.plan, session.progress
        progress.begin("trials", plan.num_trials, finished(self.study))
        context = study_context(plan, session.desk_name)
        callback = StudyCallback(
            context,
            session.desk,
            session.tracker,
            session.timeline,
            progress,
            self.max_clean_drop,
        )
        run_study(plan, self.study, context, session.desk, session.place.slots, [callback])
        runs = self.unconfirmed() if self.missing_trials <= 0 else []
        if runs:
            what = "runs of the confirmation"
            progress.say(f"confirming with new seeds on test images: {len(runs)} runs")
            progress.begin(what, len(runs))
            session.run(runs)

    def write_files(self) -> Results:
        """Tables and pictures of what there is now, and what they say over seeds."""
        records, best = self.folder.records(), self.best()
        self.folder.write_tables(records, best)
        results = Results.read(self.folder)
        write_comparisons(self.folder, results.comparisons)
        write_report(STORY, results, self.about)
        return results


def print_plan(console: Console, plan: Plan) -> None:
    """The answer to --dry-run."""
    space = plan.space
    searched = {path: describe(d) for path, d in space.distributions.items()}
    splits = print_fields(console, space.base, searched)
    controls = ", ".join(json.dumps(params) for params in space.controls())
    console.print(f"\nunregularized baselines, first: {controls}", markup=False)
    print_work(console, space.base, splits, plan.num_trials)
