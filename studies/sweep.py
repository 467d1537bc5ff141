"""Search λ, h, IPC and the base method for data sets that make robust students.

Every study starts with the unregularized baseline of each method and IPC. The search selects on
validation; the front and its baselines are then run again with new seeds on test images, and only
these figures are the study's result. Running the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from guard.config import EvaluationConfig
from guard.errors import ConfigError, StudyError
from studies.driver import flags as cli
from studies.presets import Preset
from tune.confirmation import Confirmation


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
    add_confirmation_flags(parser)
    cli.add_machine_flags(parser)
    return parser


def add_confirmation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how what it finds is confirmed, on test images")
    group.add_argument(
        "--confirm-seeds",
        type=int,
        metavar="K",
        help="new seeds of each configuration (default: preset's)",
    )
    group.add_argument(
        "--confirm-configurations",
        type=int,
        metavar="N",
        help="of the Pareto front at most N, the chosen one first (default: preset's)",
    )
    group.add_argument(
        "--confirm-attacks", metavar="NAMES", help="attacks or suites, a,b,… (default: preset's)"
    )
    group.add_argument("--no-confirm", action="store_true", help="the search alone")


def confirmation(args: argparse.Namespace, preset: Preset) -> Confirmation:
    """What the flags make of the preset's confirmation. Raises StudyError."""
    wanted = preset.confirm
    if args.confirm_seeds is not None:
        wanted = replace(wanted, seeds=args.confirm_seeds)
    if args.confirm_configurations is not None:
        wanted = replace(wanted, configurations=args.confirm_configurations)
    if args.confirm_attacks is not None:
        names = tuple(name.strip() for name in args.confirm_attacks.split(","))
        try:
            EvaluationConfig(attacks=names)
        except ConfigError as error:
            raise StudyError(f"--confirm-attacks: {error}") from None
        wanted = replace(wanted, attacks=names)
    return replace(wanted, seeds=0) if args.no_confirm else wanted


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    console = Console(highlight=False)
    check_flags(args)
    preset = cli.load_preset(args.preset)
    folder = cli.output_folder(args.output, args.name or args.preset)
    space = cli.search_space(preset, cli.parse_settings(args.settings), args.data)
    if args.sampler != "grid":
        space.check_combinations()
    space = replace(space, base=cli.on_device(space.base, args.device))
    space = cli.checked_space(space)
    resources = cli.parse_resources(args.resources, space.base)

    from studies.driver import (  # Ray and Optuna, after what can be checked without them
        launch,
        session,
    )

    plan = launch.make_plan(folder, space, preset, args)
    plan = replace(plan, confirmation=confirmation(args, preset))
    if args.dry_run:
        launch.print_plan(console, plan)
        return 0
    command = "uv run python -m studies.sweep " + shlex.join(argv)
    place = session.place(args, folder, resources)
    return launch.run_sweep(console, plan, place, args.max_clean_drop, command)


def check_flags(args: argparse.Namespace) -> None:
    """Raises StudyError for a number out of range."""
    if args.num_trials is not None and args.num_trials < 1:
        raise StudyError(f"--num-trials: must be at least 1, got {args.num_trials}")
    for name in ("confirm_seeds", "confirm_configurations"):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise StudyError(f"--{flag}: must be at least 1, got {value}; or --no-confirm")
    cli.check_machine_flags(args)
    if not 0 <= args.max_clean_drop <= 1:
        raise StudyError(f"--max-clean-drop: must be in [0, 1], got {args.max_clean_drop}")


if __name__ == "__main__":
    cli.run(main)
