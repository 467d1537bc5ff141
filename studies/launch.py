"""From a checked plan to a finished study on Ray, and what `--dry-run` says of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

import optuna
import ray
import torch
from rich.console import Console

from guard.artifacts import ArtifactStore
from guard.datasets import load_data
from guard.errors import StudyError
from guard.pipeline import plan as plan_stages
from studies import cli
from studies.estimate import estimate, seconds_per_pass
from studies.figures import pareto_figure, save_png
from studies.presets import Preset
from studies.progress import Progress, duration
from studies.summary import print_places, print_summary
from tune import cluster
from tune.callback import StudyCallback
from tune.comparison import Comparison, compared, markdown
from tune.confirmation import Planned, confirm, planned, unconfirmed
from tune.records import Record, StudyFolder, choose, to_csv, write_atomically
from tune.resources import StageResources
from tune.search import (
    Plan,
    finished,
    locked,
    num_planned,
    num_slots,
    open_study,
    run_study,
    study_context,
)
from tune.space import SearchSpace, describe
from tune.stages import RayRunner, open_desk
from tune.tracking import Tracker, check_tracking


def make_plan(
    folder: StudyFolder,
    space: SearchSpace,
    preset: Preset,
    resources: StageResources,
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
        resources,
        args.max_concurrent,
    )


def run_sweep(console: Console, plan: Plan, args: argparse.Namespace, command: str) -> int:
    """Everything after the checks: lock the folder, start Ray, run, report."""
    folder = plan.folder
    tracking_uri = args.tracking_uri or folder.tracking_uri
    if args.tracking_uri:
        check_tracking(args.tracking_uri)
    if args.address:
        cluster.check_address(args.address)
    else:
        plan.resources.check([(os.cpu_count() or 1, torch.cuda.device_count())])
    with locked(folder):
        check_same_study(plan)
        ArtifactStore(folder.artifacts).remove_abandoned()
        sweep = Sweep(console, plan, open_study(plan), args.max_clean_drop)
        already = finished(sweep.study)
        console.print(f"study {folder.path}: {already} of {plan.num_trials} trials are finished")
        if sweep.is_done:
            comparisons = sweep.write_files()
        else:
            console.print("starting Ray …")
            with cluster.started(args.address, verbose=args.verbose):
                plan.resources.check(cluster.nodes())
                comparisons = sweep.run_on_ray(tracking_uri, command)
        print_summary(console, folder.records(), args.max_clean_drop, comparisons)
        print_places(console, folder, tracking_uri)
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

    console: Console
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

    def unconfirmed(self) -> list[Planned]:
        runs = planned(self.plan.confirmation, self.folder.records(), self.best())
        return unconfirmed(self.folder, runs)

    def run_on_ray(self, tracking_uri: str, command: str) -> list[Comparison]:
        """Search and confirm what is missing; write and track what there is then."""
        plan, folder, context = self.plan, self.folder, study_context(self.plan)
        desk = open_desk(context.desk, folder.artifacts, plan.resources)
        tracker = Tracker(folder, tracking_uri, note=f"Made by `{command}`. Files: `{folder.path}`")
        with Progress(self.console, plan.num_trials, finished(self.study)) as progress:
            callback = StudyCallback(context, desk, tracker, progress, self.max_clean_drop)
            run_study(plan, self.study, context, desk, [callback])
            if self.missing_trials <= 0:
                self.confirm(context.desk, desk, tracker, progress)
        comparisons = self.write_files()
        records = [*folder.records(), *folder.confirmations()]
        tracker.close(records, "FINISHED" if self.is_done else "KILLED")
        if tracker.errors:
            first = f"MLflow: {len(tracker.errors)} calls failed; first: {tracker.errors[0]}"
            self.console.print(first, style="yellow")
        return comparisons

    def confirm(self, name: str, desk: Any, tracker: Tracker, progress: Progress) -> None:
        """Run what is unconfirmed. Ctrl-C ends it as it ends the search."""
        runs = self.unconfirmed()
        progress.confirming(len(runs))

        def settle(record: Record) -> None:
            tracker.finish(record)
            progress.confirmed(record)

        def tick() -> None:
            with contextlib.suppress(ray.exceptions.RayError):  # busy: the next tick will do
                progress.tick(ray.get(desk.status.remote(), timeout=2))

        slots = num_slots(self.plan.resources) + 1
        with contextlib.suppress(KeyboardInterrupt):
            confirm(self.folder, runs, lambda: RayRunner(name), slots, settle, tick)

    def write_files(self) -> list[Comparison]:
        """Tables and pictures of what there is now, and what they say over seeds."""
        records, best = self.folder.records(), self.best()
        self.folder.write_tables(records, best)
        if records:
            picture = self.folder.path / "pareto.png"
            save_png(pareto_figure(records, self.max_clean_drop), picture)
        comparisons = compared(self.folder)
        if comparisons:
            rows = [comparison.row() for comparison in comparisons]
            write_atomically(self.folder.path / "comparison.csv", to_csv(rows))
            write_atomically(self.folder.path / "comparison.md", markdown(comparisons))
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
