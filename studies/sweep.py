"""Search λ, h, IPC and the base method for data sets that make robust students.

Every study starts with the unregularized baseline of each method and IPC. The search selects on
validation; test figures only report. Running the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence

import optuna
from rich.console import Console

from guard.datasets import load_data
from guard.pipeline import plan as plan_stages
from studies import cli
from studies.estimate import estimate, seconds_per_pass
from studies.progress import Progress, duration
from studies.summary import print_places, print_summary
from tune import cluster
from tune.callback import StudyCallback
from tune.records import choose, write_atomically
from tune.search import (
    Plan,
    check_fits,
    finished,
    locked,
    num_planned,
    open_study,
    run_study,
    study_context,
)
from tune.space import describe
from tune.stages import open_desk
from tune.tracking import Tracker, check_server


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.sweep",
        description=__doc__,
        epilog="example: python -m studies.sweep --preset digits --num-trials 40 "
        "--set 'ipc=choice(1, 10, 50)' --set 'sre2l.bn_weight=loguniform(0.001, 1)'",
    )
    cli.add_config_flags(parser)
    cli.add_output_flags(parser)
    search = parser.add_argument_group("how it is searched")
    search.add_argument(
        "--num-trials", type=int, metavar="N", help="finished trials in the end (default: preset's)"
    )
    search.add_argument(
        "--sampler", default="tpe", choices=("tpe", "nsga2", "random", "grid"), help="default: tpe"
    )
    search.add_argument("--sampler-seed", type=int, default=0, metavar="SEED")
    search.add_argument(
        "--max-clean-drop",
        type=float,
        default=0.03,
        metavar="SHARE",
        help="clean validation accuracy that the choice may lose to its baseline (default: 0.03)",
    )
    machines = parser.add_argument_group("where it runs")
    machines.add_argument(
        "--address", metavar="RAY", help="host:port or auto of a Ray cluster (default: a local Ray)"
    )
    machines.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="STAGE=CPUS[,GPUS]",
        help=f"what a stage holds: all=1,0.5 or squeeze=4,1; stages: {', '.join(cli.STAGE_NAMES)}. "
        "Default: compute.num_threads CPUs, and one GPU on cuda. Repeatable",
    )
    machines.add_argument(
        "--max-concurrent", type=int, default=0, metavar="N", help="trials at a time (default: fit)"
    )
    machines.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: sqlite in the output folder)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print space, stages and work; start nothing"
    )
    parser.add_argument("--verbose", action="store_true", help="show what Ray logs")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    console = Console(highlight=False)
    check_flags(args)
    preset = cli.load_preset(args.preset)
    folder = cli.output_folder(args.output, args.name or args.preset)
    space = cli.search_space(preset, cli.parse_settings(args.settings), args.data)
    space = cli.checked(cli.on_device(space, args.device))
    resources = cli.parse_resources(args.resources, space.base)
    queued = num_planned(space, args.sampler)
    default = queued if args.sampler == "grid" else max(preset.num_trials, queued)
    plan = Plan(
        folder,
        space,
        args.num_trials or default,
        args.sampler,
        args.sampler_seed,
        resources,
        args.max_concurrent,
    )
    if args.dry_run:
        print_plan(console, plan)
        return 0
    return run_sweep(console, plan, args)


def check_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for a number out of range."""
    if args.num_trials is not None and args.num_trials < 1:
        raise cli.UsageError(f"--num-trials: must be at least 1, got {args.num_trials}")
    if args.max_concurrent < 0:
        raise cli.UsageError(f"--max-concurrent: must be at least 1, got {args.max_concurrent}")
    if not 0 <= args.max_clean_drop <= 1:
        raise cli.UsageError(f"--max-clean-drop: must be in [0, 1], got {args.max_clean_drop}")


def run_sweep(console: Console, plan: Plan, args: argparse.Namespace) -> int:
    """Everything after the checks: lock the folder, start Ray, run, report."""
    folder, command = plan.folder, "python -m studies.sweep " + shlex.join(sys.argv[1:])
    tracking_uri = args.tracking_uri or folder.tracking_uri
    check_server(tracking_uri)
    if args.address:
        cluster.check_address(args.address)
    with locked(folder):
        check_same_study(plan)
        study = open_study(plan)
        already = finished(study)
        console.print(f"study {folder.path}: {already} of {plan.num_trials} trials are finished")
        if already < plan.num_trials:
            console.print("starting Ray …")
            with cluster.started(args.address, verbose=args.verbose):
                check_fits(plan.resources)
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
    done = finished(study) >= plan.num_trials
    tracker.close(folder.records(), "FINISHED" if done else "KILLED")
    if tracker.errors:
        count = len(tracker.errors)
        console.print(f"MLflow: {count} calls failed; first: {tracker.errors[0]}", style="yellow")


def check_same_study(plan: Plan) -> None:
    """Raises UsageError if the folder holds a study of another config or space."""
    path = plan.folder.path / "study.json"
    space = {name: describe(d) for name, d in plan.space.distributions.items()}
    now = {**plan.space.base.flat(), **{f"search {name}": text for name, text in space.items()}}
    if path.is_file():
        before = json.loads(path.read_text())
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise cli.UsageError(
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
    groups = ", ".join(json.dumps(group) for group in space.groups())
    console.print(f"\nunregularized baselines, first: {groups}", markup=False)
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


if __name__ == "__main__":
    cli.run(main)
