"""Run one configuration in this process, without Ray, and print its figures.

The configuration is a JSON file such as the best.json of a sweep. Stages that the output folder
already holds are reused; --fresh computes them all again, to the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from guard.artifacts import ArtifactStore
from guard.card import finished_card
from guard.data.datasets import load_data
from guard.errors import StudyError
from guard.objects import Objects, is_uri
from guard.pipeline import TrialResult, local_runner, run_trial
from guard.trial import TrialConfig
from studies.driver import flags
from studies.driver.checks import checked, on_device, opened_folder, study_folder
from studies.driver.dryrun import print_notes
from studies.driver.sets import with_sets
from studies.driver.settings import overridden, parse_settings
from studies.reporting.console import Terminal
from studies.reporting.progress import duration
from studies.reporting.terminal import print_cautions
from tune.places import typed, usable_folder
from tune.results.cautions import before
from tune.results.reading import read_object
from tune.results.wording import title


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.trial", description=__doc__)
    parser.add_argument("config", metavar="CONFIG.json", help="a trial's configuration")
    parser.add_argument("--output", default="runs", metavar="DIR", help="default: runs")
    parser.add_argument("--data", metavar="PATH", help="read the data from here instead")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="change a field of the configuration; repeatable",
    )
    parser.add_argument("--device", metavar="NAME", help="default: the configuration's own")
    parser.add_argument("--fresh", action="store_true", help="reuse no stage that is there")
    parser.add_argument(
        "--export", metavar="DIR", help="also write the images (an ImageFolder) and card"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the trial: 0 if it is complete, 1 if it diverged. Raises UserError."""
    args = parser().parse_args(argv)
    console = Terminal()
    values = fixed_settings(args.settings)
    if args.data is not None:
        values["data.path"] = args.data
    store = opened_folder("--output", args.output, "").store
    if args.export is not None:
        usable_folder("--export", typed("--export", args.export))
    config = overridden(read_config(args.config), values)
    config = on_device(config, args.device or config.compute.device)
    if args.export is not None and not config.distils:
        raise StudyError(f"--export: {config.method} trains on the real images, and distils no set")
    config = with_sets(config, ())
    config = checked(config, [config])
    print_notes(console, load_data(config.data), config.compute)
    print_cautions(console, before([config]))
    console.print(f"{title(config)}, fingerprint {config.fingerprint()}")

    def report(heading: str, metrics: object) -> None:
        console.print(f"  {heading} done")

    def execute(store: ArtifactStore) -> int:
        result = run_trial(config, local_runner(store), report)
        if "distilled" in result.paths:
            store.fetch(result.paths["distilled"])
        return show(console, config, result, args.export)

    if not args.fresh:
        return execute(store)
    with tempfile.TemporaryDirectory() as scratch:
        return execute(ArtifactStore(Path(scratch)))


def read_config(text: str) -> TrialConfig:
    """Of a file, or of an object. Raises StudyError, naming it."""
    with tempfile.TemporaryDirectory() as scratch:
        path = config_file(text, Path(scratch))
        place = text if is_uri(text) else path
        try:
            return TrialConfig.from_dict(read_object(path))
        except OSError as error:
            raise StudyError(f"{place}: cannot be read ({error.strerror})") from None
        except ValueError as error:  # a ConfigError is one
            raise StudyError(f"{place}: {error}") from None


def config_file(text: str, scratch: Path) -> Path:
    """The path that was typed, or that of an object's copy. Raises StudyError."""
    if not is_uri(text):
        return typed("CONFIG.json", text)
    there, path = study_folder("CONFIG.json", text), scratch / "config.json"
    try:
        Objects(there.uri).download(there.name, path)
    except OSError as error:
        raise StudyError(f"{text}: cannot be read ({error})") from None
    return path


def fixed_settings(settings: Sequence[str]) -> dict[str, object]:
    """`--set` values by path. Raises StudyError or ConfigError, also for a distribution."""
    from optuna.distributions import BaseDistribution

    values = parse_settings(settings)
    for path, value in values.items():
        if isinstance(value, BaseDistribution):
            raise StudyError(f"--set: a single trial takes plain values, got one for {path}")
    return values


def show(console: Terminal, config: TrialConfig, result: TrialResult, export: str | None) -> int:
    """Print the figures; exit code 1 if the trial diverged."""
    computed = sum(stage.built for stage in result.stages)
    console.print(
        f"{result.status} in {duration(result.seconds)}; {computed} of {len(result.stages)} stages "
        "computed, the others were there"
    )
    for name, value in result.metrics.items():
        console.print(f"  {name:<36} {value!r}")
    if result.status != "complete":
        console.print(f"  {result.reason}")
        return 1
    if export is not None:
        from guard.distilled import DistilledSet

        folder, place = result.paths["distilled"], typed("--export", export)
        card = finished_card(folder, config, result.metrics)
        replace(DistilledSet.load(folder), card=card).export(place)
        console.print(f"images and their card written to {place}")
    return 0


if __name__ == "__main__":
    flags.run(main)
