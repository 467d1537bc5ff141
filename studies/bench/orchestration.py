"""What a trial costs beside its stages: trials whose stages do nothing, through the real Ray Tune,
Optuna and MLflow.

A row for every tenth of the trials: seconds a trial, the driver's memory, and how far MLflow is
behind. The machine should be idle.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from optuna.distributions import FloatDistribution

from guard.trial import TrialConfig
from studies.bench.nothing import stand_in
from studies.driver import flags
from studies.reporting.console import Terminal
from tune import cluster
from tune.asking import Timeline
from tune.callback import StudyCallback
from tune.desk import DeskStatus, open_desk
from tune.options import SamplerName
from tune.planning import Plan, open_study
from tune.proposer import Proposer
from tune.resources import Resources, StageResources
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.standing import Standing
from tune.results.tables import as_markdown
from tune.search import run_study, study_context
from tune.space import SearchSpace
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker
from tune.usage import resident_mib

ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How far a study was."""

    trials: int
    seconds: float
    megabytes: float
    """Of the driver's memory."""
    undelivered: int
    """Trials that MLflow had not got yet."""


class Watch:
    """A watcher that notes how far the study is."""

    def __init__(self, every: int, undelivered: Callable[[], int]) -> None:
        self._every, self._undelivered = every, undelivered
        self._start, self._count = time.monotonic(), 0
        self.marks: list[Mark] = []

    def begin(self) -> None:
        self._start = time.monotonic()

    def finished(self, record: Record, best: Record | None) -> None:
        self._count += 1
        if self._count % self._every == 0:
            self.marks.append(
                Mark(
                    trials=self._count,
                    seconds=time.monotonic() - self._start,
                    megabytes=resident_mib(),
                    undelivered=self._undelivered(),
                )
            )

    def tick(self, status: DeskStatus) -> None: ...

    def say(self, line: str) -> None: ...


def measure(output: Path, num_trials: int, sampler: SamplerName) -> tuple[list[Mark], float]:
    """The marks of a study, and the seconds that MLflow needed after its last trial."""
    folder = StudyFolder(output, "nothing")
    folder.path.mkdir(parents=True)
    base = TrialConfig().override(
        {"evaluation.diagnose": False, "regularizer.weight": 0.3, "evaluation.attacks": ["pgd1"]}
    )
    space = SearchSpace(base, {"regularizer.h": FloatDistribution(0.01, 3.0, log=True)})
    plan = Plan(folder=folder, space=space, num_trials=num_trials, sampler=sampler)
    standing = Standing(folder, 0.03)
    study = open_study(plan, standing)
    store = open_store(folder.tracking_uri, folder)
    with cluster.started(None):
        name = f"desk:{folder.path}"
        desk = open_desk(name, folder.artifacts, StageResources(Resources(1, 0)), task=stand_in)
        context = study_context(plan, name)
        tracker = Tracker(folder, store, "nothing")
        tracker.start()
        watch = Watch(max(num_trials // ROWS, 1), lambda: tracker.backlog)
        callback = StudyCallback(
            context, desk, tracker, Timeline(desk, folder.path), watch, standing
        )
        watch.begin()
        proposer = Proposer(study, space, standing, num_trials, plan.reduction)
        run_study(proposer, context, desk, 3, callback)
        end = time.monotonic()
        tracker.close(standing.records)
    return watch.marks, time.monotonic() - end


COLUMNS = ("trials", "seconds each", "driver, MiB", "not yet in MLflow")


def rows(marks: Sequence[Mark]) -> Iterator[list[str]]:
    """What each part of the study has cost."""
    start = Mark(trials=0, seconds=0.0, megabytes=0.0, undelivered=0)
    for before, after in itertools.pairwise([start, *marks]):
        each = (after.seconds - before.seconds) / (after.trials - before.trials)
        yield [
            f"{before.trials + 1} to {after.trials}",
            f"{each:.3f}",
            f"{after.megabytes:.0f}",
            str(after.undelivered),
        ]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.bench.orchestration", description=__doc__
    )
    parser.add_argument("--trials", type=int, default=1000, metavar="N", help="default: 1000")
    names = [name for name in get_args(SamplerName) if name != "grid"]
    parser.add_argument("--sampler", choices=names, default="tpe", help="default: tpe")
    return parser


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        marks, rest_s = measure(Path(scratch), args.trials, args.sampler)
    console = Terminal()
    console.print(as_markdown((list(COLUMNS), list(rows(marks)))))
    console.print(f"MLflow was complete {rest_s:.1f} s after the last trial")
    return 0


if __name__ == "__main__":
    flags.run(main)
