"""Judge sets of images that anybody made, and networks that anybody trained.

Each set is trained on by the same student, and each student and network attacked by the same suite
as those of this project, which stand beside them in one table. A set is a folder of images (a
folder a class), an .npz file, a .pt file of (images, labels), or the folder of a distilled set of
this project. It runs in this process, without Ray; what the output folder holds is reused. As an
arm of any study, on Ray and in MLflow, such a set is `--set method=given --set given.path=SET`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guard.config.evaluation import radius_text
from guard.data.datasets import load_data
from guard.errors import ConfigError, StudyError
from guard.trial import TrialConfig, methods
from studies.driver import flags
from studies.driver.checks import checked, load_preset, on_device, output_folder
from studies.driver.dryrun import print_notes
from studies.driver.judging import Entry, judged, table_of
from studies.driver.settings import overridden
from studies.reporting.console import Terminal
from studies.trial import fixed_settings, read_config
from tune.copies import brought
from tune.places import held, typed
from tune.results.folder import write_atomically
from tune.results.rows import to_csv

BESIDE = "random,whole"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command line asks for."""

    config: TrialConfig
    entries: Sequence[Entry]
    seeds: int


def parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="python -m studies.judge", description=__doc__)
    parser.add_argument("sets", nargs="*", metavar="SET", help="a folder, an .npz or a .pt file")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="WEIGHTS:NETWORK",
        dest="models",
        help="a state dict (.pt, .safetensors) and what it is of, attacked as it is: "
        "net.pt:resnet18, net.pt:torchvision:mobilenet_v2; its input is normalised by the data "
        "set's mean and deviation. Repeatable",
    )
    parser.add_argument(
        "--beside",
        default=BESIDE,
        metavar="METHODS",
        help=f"rows of this project, at the first set's images per class (default: {BESIDE})",
    )
    parser.add_argument("--preset", metavar="NAME", help=f"default: {flags.PRESET}")
    parser.add_argument(
        "--like", metavar="CONFIG.json", help="students and attacks of this trial, not of a preset"
    )
    parser.add_argument("--data", metavar="PATH", help="the real images, as of any study")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="settings")
    parser.add_argument("--device", default="auto", metavar="NAME")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="of students (default: 3)"
    )
    parser.add_argument("--output", default="runs", metavar="DIR", help="default: runs")
    parser.add_argument("--name", default="judge", metavar="NAME", help="default: judge")
    return parser


def main(argv: Sequence[str]) -> int:
    """Judge them all: 0, or 1 if one of ours diverged. Raises UserError."""
    args = parser().parse_args(argv)
    console = Terminal()
    folder = output_folder(args.output, args.name)
    asked = request(args)
    print_notes(console, load_data(asked.config.data), asked.config.compute)
    rows = []
    with held(folder.path), brought(folder):
        for entry in asked.entries:
            for note in entry.notes:
                console.print(f"  {note}")
            found = judged(asked.config, folder.store, entry, asked.seeds, console.print)
            if found is not None:
                rows.append(found)
        text, values = table_of(rows)
        write_atomically(folder.path / "judge.md", text)
        write_atomically(folder.path / "judge.csv", to_csv(values))
    radii = ", ".join(map(radius_text, asked.config.evaluation.radii))
    console.print(f"\n{asked.config.evaluation.norm} eps {radii}\n\n{text}")
    console.print(f"written to {folder.path}")
    return 0 if len(rows) == len(asked.entries) else 1


def request(args: argparse.Namespace) -> Asked:
    """Everything checked, and nothing computed. Raises UserError."""
    if not args.sets and not args.models:
        raise StudyError("SET: name a set of images, or a network with --model")
    if args.seeds < 1:
        raise StudyError(f"--seeds: must be at least 1, got {args.seeds}")
    config = on_device(configured(args), args.device)
    config = checked(config, [config])
    as_trial = args.like is not None
    sets = [Entry.of_set(text, config, as_trial=as_trial) for text in args.sets]
    networks = [network(text, config) for text in args.models]
    ipc = sets[0].ipc if sets and sets[0].ipc else config.ipc
    beside = [own(name, config, ipc) for name in filter(None, args.beside.split(","))]
    checked(config, [entry.config for entry in beside if entry.config])
    return Asked(config=config, entries=[*sets, *networks, *beside], seeds=args.seeds)


def configured(args: argparse.Namespace) -> TrialConfig:
    """A preset's trial under the suite that it confirms with, or the one that is named."""
    if args.like is not None and args.preset is not None:
        raise StudyError("--like: is a trial of its own, so it takes no --preset")
    values = fixed_settings(args.settings)
    if args.data is not None:
        values["data.path"] = args.data
    if args.like is not None:
        return overridden(read_config(args.like), values)
    preset = load_preset(args.preset or flags.PRESET)
    attacks = {"evaluation.attacks": list(preset.confirm.attacks)}
    return overridden(preset.config, {**attacks, **values})


def network(text: str, config: TrialConfig) -> Entry:
    """Of a --model."""
    path, _, name = text.partition(":")
    if not name:
        raise StudyError(f"--model: must be WEIGHTS:NETWORK, got {text!r}")
    base = config.student_model
    try:
        model = base if name == base.name else replace(base, name=name)
    except ConfigError as error:
        raise StudyError(f"--model: {error}") from None
    return Entry.of_network(typed("--model", path), Path(path).name, model)


def own(name: str, config: TrialConfig, ipc: int) -> Entry:
    """One of our methods, without a regularizer."""
    if name not in methods():
        raise StudyError(
            f"--beside: no method is named {name!r}; there are: {', '.join(methods())}"
        )
    chosen = {"method": name, "ipc": ipc, "regularizer": "none", "student.learned_lr": False}
    if config.student.labels == "own":
        chosen["student.labels"] = "auto"
    return Entry.of_trial(config.override(chosen))


if __name__ == "__main__":
    flags.run(main)
