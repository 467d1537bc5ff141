"""A study whose trials are known beforehand."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from guard.trial import TrialConfig
from guard.trial_stages import Leg
from studies.design.design import Design, Settings
from studies.design.study import Study, conclusion
from studies.driver import flags
from studies.driver.checks import checked
from studies.driver.dryrun import print_fields, print_sharing, print_work
from studies.driver.options import TRIALS_ONLY
from studies.driver.place import placed
from studies.driver.request import Request, settled
from studies.driver.run import run
from studies.driver.sets import paths_in, with_sets
from studies.driver.settings import base_config
from studies.reporting.console import Terminal
from studies.reporting.terminal import print_results
from tune.results.findings import Results
from tune.results.folder import write_atomically
from tune.results.rows import read_csv, to_csv
from tune.results.wording import title
from tune.runs import Run, unfinished

if TYPE_CHECKING:
    from studies.driver.session import Session


@dataclass(frozen=True, kw_only=True)
class TrialsJob:
    """Every trial of a design with each seed, and what is measured after them."""

    story: Study
    request: Request
    base: TrialConfig
    design: Design

    @cached_property
    def arms(self) -> tuple[list[tuple[Settings, list[TrialConfig]]], list[str]]:
        return self.design.arms(self.base)

    @cached_property
    def runs(self) -> list[Run]:
        return self.design.repeated(self.arms[0], self.request.seeds)

    @property
    def configs(self) -> list[TrialConfig]:
        return [run.config for run in self.runs]

    @property
    def cautions(self) -> list[str]:
        _, left_out = self.arms
        return [f"a combination without meaning is left out ({reason})" for reason in left_out]

    @property
    def varied(self) -> dict[str, str]:
        axes = {f"axis {path}": json.dumps(list(v)) for path, v in self.design.axes.items()}
        arms = [json.dumps(settings) for settings in (*self.design.variants, *self.design.single)]
        return {**axes, "arms": " ".join(arms)}

    def left(self) -> list[Run]:
        return unfinished(self.runs, self.request.folder.records())

    def results(self) -> Results:
        return Results.read(self.request.folder)

    def counted(self) -> tuple[int, int]:
        return len(self.runs) - len(self.left()), len(self.runs)

    def unfinished(self) -> str:
        left = self.left()
        if left:
            return f"{len(left)} trials"
        is_measured = self.story.measure is None or read_csv(self.results().measured)
        return "" if is_measured else "measurements"

    def queued(self) -> Iterable[tuple[TrialConfig, Leg]]:
        return ((run.config, run.leg) for run in self.left())

    def work(self, session: Session) -> None:
        """Run the trials that are missing and, when all are finished, measure."""
        finished, all_trials = self.counted()
        session.progress.begin("trials", all_trials, finished)
        left = self.left()
        if left and self.results().measured.exists():
            write_atomically(self.results().measured, "")  # it is of fewer trials
        session.run(left)
        if self.story.measure is not None and not self.left():
            results = self.results()
            rows = self.story.measure(results, session)
            write_atomically(results.measured, to_csv(rows))

    def write_tables(self) -> None:
        folder = self.request.folder
        folder.write_results(folder.records())

    def print_summary(self, console: Terminal, results: Results) -> None:
        print_results(console, results, self.request.tracking_uri)
        console.print(f"\n{conclusion(self.story, results)}")

    def print_plan(self, console: Terminal) -> None:
        axes = {path: ", ".join(map(str, values)) for path, values in self.design.axes.items()}
        splits = print_fields(console, self.base, axes, self.request.options.listed(TRIALS_ONLY))
        configs = self.configs
        console.print(f"\n{len(configs)} trials, {self.request.seeds} seeds:")
        for planned in self.runs:
            name = title(planned.config, planned.params)
            console.print(f"  {planned.trial:>3} {name}")
        print_sharing(console, configs)
        print_work(console, configs[-1], splits, len(configs))


def parser(study: Study) -> argparse.ArgumentParser:
    """The flags of a study's command."""
    parser = flags.command_parser(
        study.name,
        f"{study.question} ({study.source})",
        TRIALS_ONLY,
        epilog="--set PATH=choice(a, b) adds an axis, or takes the place of one; --set PATH=VALUE "
        "fixes a field. Running the same command again goes on where it stopped.",
    )
    flags.add_config_flags(parser)
    flags.add_output_flags(parser)
    parser.set_defaults(name=study.name)
    parser.add_argument(
        "--seeds",
        type=int,
        default=study.seeds,
        metavar="N",
        help=f"of teacher, distillation, student and attacks (default: {study.seeds})",
    )
    flags.add_machine_flags(parser)
    return parser


def main(study: Study, argv: Sequence[str]) -> int:
    """The study's command: 0 if it is finished then, otherwise 1. Raises UserError."""
    return run(prepared(study, settled(flags.parsed(parser(study), argv))))


def prepared(study: Study, request: Request) -> TrialsJob:
    """The preset with the user's values, and every trial, checked. Raises UserError."""
    design = study.design(request.preset).changed(request.settings)
    fixed = dict(design.fixed)
    if request.data is not None:
        fixed["data.path"] = request.data
    base = base_config(request.preset.config, fixed, design.axes.get("method", ()))
    base = placed(base, request, design.axes)
    base = with_sets(base, paths_in([*design.points(), *design.variants, *design.single]))
    configs = [run.config for run in design.runs(base, request.seeds)]
    base = checked(base, configs)
    return TrialsJob(story=study, request=request, base=base, design=design)


def run_command(study: Study) -> None:
    """Run the command of a study's file."""
    flags.run(lambda argv: main(study, argv))
