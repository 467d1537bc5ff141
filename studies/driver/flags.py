"""What every command shares: its flags, and its one-line errors."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from guard.errors import StudyError, UserError
from guard.trial_stages import STAGES
from studies.driver.interrupts import Interrupts
from studies.driver.options import MEANING, Options
from studies.driver.streams import make_lasting
from studies.presets import PRESETS
from tune.places import told
from tune.uris import redacted

PRESET = "digits"
RETIRED: Mapping[str, str] = {
    "--sampler-seed": "search.seed=SEED",
    "--max-clean-drop": "search.max_clean_drop=SHARE",
    "--confirm-seeds": "confirm.seeds=K",
    "--confirm-configurations": "confirm.configurations=N",
    "--confirm-attacks": "confirm.attacks=NAMES",
    "--no-confirm": "confirm.seeds=0",
    "--max-concurrent": "run.concurrent=N",
    "--verbose": "run.verbose=true",
}
"""Flags of old commands -> what `--set` takes instead."""


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Run a command, and exit as it says (0: done, 1: something of it failed or is missing), with 2
    for bad input, or with 130, 143 or 129 for a signal that ended it (`Interrupts`)."""
    make_lasting()
    with Interrupts() as asked:
        code = asked.until(lambda: exit_code(main, sys.argv[1:]))
    if code is None:
        print("interrupted; what is done is kept: the same command goes on", file=sys.stderr)
        code = asked.exit_code
    sys.exit(code)


def exit_code(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """What the command returns; expected errors, and those of the file system, become one line on
    stderr and 2."""
    try:
        return main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = Path(error.filename).parent if error.filename else Path.cwd()
        print(f"error: {told(error, place)}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """It refuses flags without the passwords in them."""

    def error(self, message: str) -> NoReturn:
        super().error(redacted(message))


def command_parser(
    study: str, description: str | None, sections: Sequence[str] = (), epilog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of `python -m studies.STUDY`, without a flag yet, for `Request`.

    sections: of `Options`, that `--set` reaches. A flag that is not added has its default.
    """
    parser = Parser(prog=f"python -m studies.{study}", description=description, epilog=epilog)
    parser.set_defaults(
        sections=tuple(sections),
        preset=PRESET,
        data=None,
        settings=[],
        device="auto",
        num_trials=None,
        sampler="auto",
        known=[],
        seeds=1,
        address=None,
        resources=[],
        tracking_uri=None,
        dry_run=False,
    )
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The flags, and the command that says them again.

    Raises StudyError for a flag that is a field of an option now.
    """
    sections = parser.get_default("sections") or ()
    for argument in argv:
        flag = argument.partition("=")[0]
        if flag in RETIRED and RETIRED[flag].startswith(tuple(f"{name}." for name in sections)):
            raise StudyError(f"{flag} is now --set {RETIRED[flag]}")
    args = parser.parse_args(argv)
    args.command = f"uv run {parser.prog} {shlex.join(map(redacted, argv))}".strip()
    return args


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is studied")
    about = "; ".join(f"{name}: {make().about}" for name, make in PRESETS.items())
    group.add_argument(
        "--preset",
        default=PRESET,
        metavar="NAME",
        help=f"data set and hyper-parameters to start from (default: {PRESET}). {about}",
    )
    group.add_argument(
        "--data",
        metavar="PATH",
        help="an .npz file (x_train, y_train, x_test, y_test), a folder with train/ and val/ or "
        "test/, or where torchvision keeps or downloads the data set",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="fix a config field, or search over it: regularizer.h=0.3, method=sre2l, "
        "regularizer=cure, 'sre2l.bn_weight=loguniform(0.001, 10)', 'ipc=choice(1, 10, 50)'. "
        f"Repeatable; --dry-run lists the fields{options_help(parser.get_default('sections'))}",
    )
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or mps"
    )


def options_help(sections: Sequence[str]) -> str:
    """What `--set` reaches beside the fields of a trial, in words."""
    fields = Options().listed(sections)
    meant = "; ".join(f"{path} ({MEANING[path]})" for path in fields)
    return f". Beside those of a trial: {meant}" if meant else ""


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where results go")
    group.add_argument("--output", default="runs", metavar="DIR", help="default: runs")
    group.add_argument(
        "--name", metavar="NAME", help="the study's folder in DIR (default: the preset's name)"
    )


def add_tracking_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow: http(s)://…, postgresql://… or sqlite:///FILE (default: MLFLOW_TRACKING_URI, "
        "which hides passwords from others, or else sqlite in the output folder)",
    )


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    machines = parser.add_argument_group("where it runs")
    machines.add_argument(
        "--address", metavar="RAY", help="host:port or auto of a Ray cluster (default: a local Ray)"
    )
    machines.add_argument(
        "--resources",
        action="append",
        default=[],
        metavar="STAGE=CPUS[,GPUS]",
        help="what a stage holds: all=1,0.5 or squeeze=8,4, a squeeze of four processes with a GPU "
        "each; auto: stages share GPUs, each with the memory that one like it has taken; "
        f"stages: {', '.join(STAGES)}. Default: compute.num_threads CPUs, and one GPU on "
        "cuda, of each process. Repeatable",
    )
    add_tracking_flag(machines)
    parser.add_argument(
        "--dry-run", action="store_true", help="print space, stages and work; start nothing"
    )
