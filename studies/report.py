"""The report and the tables of a study again, also while the study is running."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from guard.errors import StudyError
from studies.design.about import About
from studies.design.stories import story
from studies.driver import flags
from studies.driver.checks import study_folder
from studies.reporting.console import Terminal
from studies.reporting.page import write_report
from tune import storage, timeline
from tune.copies import brought
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.tables import write_comparisons


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.report", description=__doc__)
    parser.add_argument("folder", metavar="DIR/NAME", help="a study's folder")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="instead, read every stored result of DIR and say which is damaged and would be "
        "computed again: exit code 1 if any is",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Write both. Raises StudyError for a folder that holds no study that is known."""
    args = parser().parse_args(argv)
    folder = study_folder("DIR/NAME", args.folder)
    if args.verify:
        return verify(folder)
    with brought(folder, alone=False):
        return write(folder)


def write(folder: StudyFolder) -> int:
    """Raises StudyError, see `main`."""
    about = About.read(folder)
    told = story(about.study)
    if told is None:
        raise StudyError(f"{folder.path}: its about.json names no study, got {about.study!r}")
    console, results = Terminal(), Results.read(folder)
    write_comparisons(folder, results.comparisons)
    page = write_report(told, results, about)
    for line in [*results.left_out, *timeline.left_out(folder.path), *storage.left_out(folder)]:
        console.warn(line)
    console.print(f"report: {page}")
    return 0


def verify(folder: StudyFolder) -> int:
    """Say what of the output folder's results is not as it was written; 1 if anything is.

    Raises StudyError for a folder without results.
    """
    store, console = folder.store, Terminal()
    every = sum(1 for _ in store.folders())
    if not every:
        raise StudyError(f"{folder.output}: holds no results of studies (no folder artifacts)")
    damaged = list(store.faults())
    for found in damaged:
        console.print(f"{str(found.place).removeprefix(f'{store.root}/')}: {found.fault}")
    told = f"{len(damaged)} of {every} results are damaged"
    console.print(f"{told}; whatever needs them computes them again" if damaged else told)
    return 1 if damaged else 0


if __name__ == "__main__":
    flags.run(main)
