"""The command of a study whose trials are known beforehand."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import Console

from guard.artifacts import ArtifactStore
from guard.errors import StudyError
from guard.trial import TrialConfig
from studies.design.about import About, claim
from studies.design.design import Design
from studies.design.study import Results, Study, conclusion
from studies.driver import flags as cli
from studies.driver.dryrun import print_fields, print_sharing, print_work
from studies.reporting.page import write_report
from studies.reporting.terminal import print_results
from tune.resources import StageResources
from tune.results.folder import StudyFolder, to_csv, write_atomically
from tune.results.tables import write_comparisons
from tune.runs import Run, unfinished
from tune.tracking import run_name


@dataclass(frozen=True)
class Job:
    """A study with everything settled: where, what, how to say it again."""

    study: Study
    folder: StudyFolder
    base: TrialConfig
    design: Design
    seeds: int
    command: str

    @cached_property
    def runs(self) -> list[Run]:
        return self.design.runs(self.base, self.seeds)

    @property
    def varied(self) -> dict[str, str]:
        """What differs between the trials, in words."""
        axes = {f"axis {path}": json.dumps(list(v)) for path, v in self.design.axes.items()}
        arms = [json.dumps(settings) for settings in (*self.design.variants, *self.design.single)]
        return {**axes, "arms": " ".join(arms)}


def parser(study: Study) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m studies.{study.name}",
        description=f"{study.question} ({study.source})",
        epilog="--set PATH=choice(a, b) adds an axis, or takes the place of one; --set PATH=VALUE "
        "fixes a field. Running the same command again goes on where it stopped.",
    )
    cli.add_config_flags(parser)
    cli.add_output_flags(parser)
    parser.set_defaults(name=study.name)
    parser.add_argument(
        "--seeds",
        type=int,
        default=study.seeds,
        metavar="N",
        help=f"of teacher, distillation and student (default: {study.seeds})",
    )
    cli.add_machine_flags(parser)
    return parser


def main(study: Study, argv: Sequence[str]) -> int:
    args = parser(study).parse_args(argv)
    console = Console(highlight=False)
    cli.check_machine_flags(args)
    if args.seeds < 1:
        raise StudyError(f"--seeds: must be at least 1, got {args.seeds}")
    job = prepared(study, args, argv)
    resources = cli.parse_resources(args.resources, job.base)
    if args.dry_run:
        print_plan(console, job)
        return 0
    return execute(console, job, args, resources)


def prepared(study: Study, args: argparse.Namespace, argv: Sequence[str]) -> Job:
    """The preset with the user's values, and every trial, checked. Raises UserError."""
    folder = cli.output_folder(args.output, args.name)
    preset = cli.load_preset(args.preset)
    design = study.design(preset).changed(cli.parse_settings(args.settings))
    fixed = dict(design.fixed)
    if args.data is not None:
        fixed["data.path"] = args.data
    base = cli.base_config(preset.config, fixed, design.axes.get("method", ()))
    base = cli.on_device(base, args.device)
    configs = [run.config for run in design.runs(base, args.seeds)]
    command = f"uv run python -m studies.{study.name} {shlex.join(argv)}".strip()
    return Job(study, folder, cli.checked(base, configs), design, args.seeds, command)


def execute(console: Console, job: Job, args: argparse.Namespace, resources: StageResources) -> int:
    """Do what is missing, then write and say what there is."""
    from studies.driver import session as sessions
    from tune.search import locked

    place = sessions.place(args, job.folder, resources)
    with locked(job.folder):
        about = About(job.study.name, job.command)
        claim(job.folder, about, job.base, job.varied)
        ArtifactStore(job.folder.artifacts).remove_abandoned()
        left = unfinished(job.runs, job.folder.records())
        console.print(
            f"study {job.folder.path}: {len(job.runs) - len(left)} of {len(job.runs)} trials are "
            "finished",
            soft_wrap=True,
        )
        results = Results.read(job.folder)
        if left or (job.study.measure is not None and not results.measured.is_file()):
            with sessions.opened(console, job.folder, place, about) as session:
                session.progress.begin("trials", len(job.runs), len(job.runs) - len(left))
                session.run(left)
                left = unfinished(job.runs, job.folder.records())
                results = Results.read(job.folder)
                if job.study.measure is not None and not left:
                    rows = job.study.measure(results, session)
                    write_atomically(results.measured, to_csv(rows))
                write(job.study, results, about)
                sessions.close(console, session, job.study, results, not left)
        else:
            write(job.study, results, about)
    print_results(console, results, place.tracking_uri)
    console.print(f"\n{conclusion(job.study, results)}", soft_wrap=True, markup=False)
    if left:
        console.print(
            f"\n{len(left)} trials are unfinished; what is done is kept. Go on:\n  {job.command}",
            soft_wrap=True,
        )
    return 1 if left else 0


def write(study: Study, results: Results, about: About) -> None:
    """Tables and the report of what there is."""
    folder = results.folder
    folder.write_results(folder.records())
    if results.comparisons:
        write_comparisons(folder, results.comparisons)
    write_report(study, results, about)


def print_plan(console: Console, job: Job) -> None:
    """The answer to --dry-run."""
    axes = {path: ", ".join(map(str, values)) for path, values in job.design.axes.items()}
    splits = print_fields(console, job.base, axes)
    configs = [run.config for run in job.runs]
    console.print(f"\n{len(configs)} trials, {job.seeds} seeds:")
    for run in job.runs:
        console.print(f"  {run.trial:>3} {run_name(run.config, run.params)}", markup=False)
    print_sharing(console, configs)
    print_work(console, configs[-1], splits, len(configs))
