"""From a checked plan to a finished study on Ray, and what `--dry-run` says of it."""

from __future__ import annotations

import argparse
import json
import os

import optuna
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
from tune.records import StudyFolder, choose, write_atomically
from tune.resources import StageResources
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
from tune.stages import open_desk
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
        study = open_study(plan)
        already = finished(study)
        console.print(f"study {folder.path}: {already} of {plan.num_trials} trials are finished")
        if already < plan.num_trials:
            console.print("starting Ray …")
            with cluster.started(args.address, verbose=args.verbose):
                plan.resources.check(cluster.nodes())
                run_on_ray(console, plan, study, tracking_uri, command, args.max_clean_drop)
        records = folder.records()
        folder.write_tables(records, choose(records, args.max_clean_drop))
        print_summary(console, folder, records, args.max_clean_drop)
        print_places(console, folder, tracking_uri)
        if finished(study) < plan.num_trials:
            missing = plan.num_trials - finished(study)
            console.print(
                f"\n{missing} trials are unfinished; what is done is kept. Go on:\n  {command}",
                soft_wrap=True,
            )
            return 1
    return 0


def run_on_ray(
    console: Console,
    plan: Plan,
    study: optuna.Study,
    tracking_uri: str,
    command: str,
    max_clean_drop: float,
) -> None:
    folder, context = plan.folder, study_context(plan)
    desk = open_desk(context.desk, folder.artifacts, plan.resources)
    tracker = Tracker(folder, tracking_uri, note=f"Made by `{command}`. Files: `{folder.path}`")
    with Progress(console, plan.num_trials, finished(study)) as progress:
        callback = StudyCallback(context, desk, tracker, progress, max_clean_drop)
        run_study(plan, study, context, desk, [callback])
    records = folder.records()
    if records:
        save_png(pareto_figure(records, max_clean_drop), folder.path / "pareto.png")
    done = finished(study) >= plan.num_trials
    tracker.close(records, "FINISHED" if done else "KILLED")
    if tracker.errors:
        count = len(tracker.errors)
        console.print(f"MLflow: {count} calls failed; first: {tracker.errors[0]}", style="yellow")


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
