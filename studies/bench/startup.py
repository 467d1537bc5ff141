"""How long a user waits: for the plan of a study, for its first stages, and for a finished one.

    python -m studies.bench.startup --rounds 5

Each round runs a study of two trials on digits in an empty folder, by the command that a user
types, and then again. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from guard.errors import StudyError
from studies.driver import flags
from studies.reporting.console import Terminal
from tune import timeline
from tune.results.tables import as_markdown

NAME = "startup"
STUDY = (
    *("--name", NAME, "--sampler", "grid"),
    *("--set", "method=sre2l", "--set", "regularizer.weight=choice(0, 0.3)"),
    *("--set", "regularizer.h=0.1", "--set", "regularizer.weight_warmup_epochs=0"),
    *("--set", "ipc=1", "--set", "squeeze.epochs=2", "--set", "sre2l.iterations=5"),
    *("--set", "student.train.epochs=2", "--set", "evaluation.attacks=pgd5"),
    *("--set", "evaluation.diagnose=false", "--set", "confirm.seeds=0"),
)
"""Two teachers, each trained for a moment."""
PLAN, FIRST, SECOND, AGAIN = (
    "the plan (--dry-run)",
    "the first stage begins",
    "the second worker's begins",
    "a finished study, run again",
)


def seconds(*more: str) -> float:
    """That the command of the study takes. Raises StudyError if it fails."""
    began = time.monotonic()
    command = [sys.executable, "-m", "studies.sweep", *STUDY, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StudyError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began


def measured(output: Path) -> dict[str, float]:
    """Seconds of one round."""
    where = ("--output", str(output))
    plan = seconds(*where, "--dry-run")
    began = time.time()
    seconds(*where)
    first: dict[str, float] = {}
    for span in sorted(timeline.read(output / NAME), key=lambda span: span.start):
        first.setdefault(span.worker, span.start - began)
    starts = list(first.values())
    found = {PLAN: plan, FIRST: starts[0]}
    if len(starts) > 1:
        found[SECOND] = starts[1]
    return {**found, AGAIN: seconds(*where)}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the table. Raises StudyError."""
    args = parser().parse_args(argv)
    if args.rounds < 1:
        raise StudyError(f"--rounds must be at least 1, got {args.rounds}")
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            rounds.append(measured(Path(scratch)))
    rows = [
        [what, f"{statistics.median(values):.1f}", f"{min(values):.1f} to {max(values):.1f}"]
        for what in (PLAN, FIRST, SECOND, AGAIN)
        if (values := [own[what] for own in rounds if what in own])
    ]
    Terminal().print(as_markdown((["seconds until", "median", "of all rounds"], rows)))
    return 0


if __name__ == "__main__":
    flags.run(main)
