"""What several processes bring to a teacher's training, against one, which has its turns with them.

    python -m studies.bench.processes --processes 2
    python -m studies.bench.processes --presets cifar10 --steps 2 --rounds 5        # ResNet-18

A round is an epoch by the first process alone, while the others wait, and one by all of them
together, of the same batches of noise; both go on from their own last one. Speed-ups are medians of
the ratios within a round. Each process has one thread; nothing else should run beside them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from guard.config import ComputeConfig
from guard.device import available_device
from guard.errors import StudyError
from guard.group import Group
from guard.processes import check_devices, in_processes
from studies.bench.epochs import SIZES, Case, measured
from studies.driver import flags
from studies.reporting.console import Terminal
from tune.results.tables import as_markdown

SMALL = ("digits", "cifar10-small")
COLUMNS = ("preset", "loss", "BatchNorm", "ms by one", "ms by all", "times")


def cases(
    presets: Sequence[str], steps: int, rounds: int, compute: ComputeConfig
) -> Iterator[Case]:
    kinds = ((False, "synchronized"), (True, "synchronized"), (True, "local"))
    for preset in presets:
        for penalised, batchnorm in kinds:
            yield Case(
                preset=preset,
                penalised=penalised,
                batchnorm=batchnorm,
                steps=steps,
                rounds=rounds,
                compute=compute,
            )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.bench.processes", description=__doc__)
    numbers = {"processes": 2, "rounds": 7, "steps": 10}
    for name, default in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}"
        )
    parser.add_argument(
        "--presets",
        nargs="+",
        choices=SIZES,
        default=SMALL,
        metavar="NAME",
        help=f"of {', '.join(SIZES)} (default: {' '.join(SMALL)})",
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default) or cuda")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the table. Raises StudyError."""
    args = parser().parse_args(argv)
    if min(args.processes, args.rounds, args.steps) < 1:
        raise StudyError("--processes, --rounds and --steps must be at least 1")
    try:
        check_devices(args.processes, available_device(args.device))
    except ValueError as error:
        raise StudyError(f"--device: {error}") from None
    compute = ComputeConfig(device=args.device)
    measure = cases(args.presets, args.steps, args.rounds, compute)
    work: Callable[[Group], Any] = partial(measured, list(measure))
    console, load = Terminal(), os.getloadavg()[0]
    rows = in_processes(work, args.processes, args.device)
    console.print(as_markdown((list(COLUMNS), rows)))
    console.print(
        f"{args.processes} processes, {os.cpu_count()} cores; load {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after"
    )
    return 0


if __name__ == "__main__":
    flags.run(main)
