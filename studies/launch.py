"""From a checked plan to a finished study on Ray, and what `--dry-run` says of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import optuna
from rich.console import Console

from guard.artifacts import ArtifactStore
from guard.datasets import load_data
from guard.errors import StudyError
from guard.pipeline import plan as plan_stages
from studies import cli
from studies.estimate import estimate, seconds_per_pass
from studies.figures import pareto_figure, save_png
from studies.presets import Preset
from studies.progress import duration
from studies.session import Place, Session, close, opened
from studies.summary import print_places, print_summary
from tune.callback import StudyCallback
from tune.comparison import Comparison, compared, write_comparisons
from tune.confirmation import planned
from tune.records import Record, StudyFolder, choose, write_atomically
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
        check_same_study(plan)
        ArtifactStore(folder.artifacts).remove_abandoned()
        sweep = Sweep(plan, open_study(plan), max_clean_drop)
        already = finished(sweep.study)
        console.print(f"study {folder.path}: {already} of {plan.num_trials} trials are finished")
        if sweep.is_done:
            comparisons = sweep.write_files()
        else:
            with opened(console, folder, place, command) as session:
                sweep.run(session)
                comparisons = sweep.write_files()
                records = [*folder.records(), *folder.confirmations()]
                close(console, session, records, done=sweep.is_done)
        print_summary(console, folder.records(), max_clean_drop, comparisons)
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
            context, session.desk, session.tracker, progress, self.max_clean_drop
        )
        run_study(plan, self.study, context, session.desk, session.place.slots, [callback])
        runs = self.unconfirmed() if self.missing_trials <= 0 else []
        if runs:
            what = "runs of the confirmation"
            progress.say(f"confirming with new seeds on test images: {len(runs)} runs")
            progress.begin(what, len(runs))
            session.run(runs)

    def write_files(self) -> list[Comparison]:
        """Tables and pictures of what there is now, and what they say over seeds."""
        records, best = self.folder.records(), self.best()
        self.folder.write_tables(records, best)
        if records:
            picture = self.folder.path / "pareto.png"
            save_png(pareto_figure(records, self.max_clean_drop), picture)
        comparisons = compared(self.folder)
        write_comparisons(self.folder, comparisons)
        return comparisons


def check_same_study(plan: Plan) -> None:
    """Raises StudyError if the folder holds a study of another config or space."""
    path = plan.folder.path / "study.json"
    space = {name: describe(d) for name, d in plan.space.distributions.items()}
    now = {**plan.space.base.flat(), **{f"search {name}": text for name, text in space.items()}}
    del now["data.path"]  # data.sha256 says which data
    if path.is_file():
        before = json.loads(path.read_text())
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise StudyError(
                    f"--name: the study in {plan.folder.path} was made with {name} = "
                    f"{before.get(name)}, not {now.get(name)}; choose another --name"
                )
    write_atomically(path, json.dumps(now, indent=1))


def print_plan(console: Console, plan: Plan) -> None:
    """The answer to --dry-run."""
    space, splits = plan.space, load_data(plan.space.base.data)
    console.print(
        f"data: {len(splits.train)} training, {len(splits.validation)} validation, "
        f"{len(splits.test)} test images of {splits.spec.image_size} px, "
        f"{splits.spec.num_classes} classes"
    )
    console.print("\nfields (searched ones say how):")
    flat = space.base.flat()
    for path in cli.field_list():
        if path in space.distributions:
            console.print(f"  {path} ~ {describe(space.distributions[path])}", markup=False)
        elif path in flat:
            console.print(f"  {path} = {json.dumps(flat[path])}", markup=False)
    controls = ", ".join(json.dumps(params) for params in space.controls())
    console.print(f"\nunregularized baselines, first: {controls}", markup=False)
    console.print("\nstages of one trial and their keys:")
    for stage in plan_stages(space.base):
        console.print(f"  {stage.name:<10} {stage.key}")
    work, speed = estimate(space.base, splits), seconds_per_pass(space.base, splits)
    shares = ", ".join(f"{name} {passes:.3g}" for name, passes in work.passes.items())
    console.print(f"\nwork of one trial, in image passes: {shares}; {work.total:.3g} in all")
    seconds = work.total * speed
    console.print(
        f"at {1e6 * speed:.1f} µs a pass measured here: about {duration(seconds)} a trial, "
        f"{duration(seconds * plan.num_trials)} of one worker for {plan.num_trials} trials, "
        "less what trials share"
    )
