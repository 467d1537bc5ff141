"""The report and the tables of a study again, also while the study is running."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from guard.errors import StudyError
from studies.design.about import About
from studies.design.stories import story
from studies.driver import flags
from studies.reporting.console import Terminal
from studies.reporting.page import write_report
from tune import storage, timeline
from tune.places import typed
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.tables import write_comparisons


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.report", description=__doc__)
    parser.add_argument("folder", metavar="DIR/NAME", help="a study's folder")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write both. Raises StudyError for a folder that holds no study that is known."""
    path = Path(os.path.normpath(typed("DIR/NAME", parser().parse_args(argv).folder)))
    folder = StudyFolder(path.parent, path.name)
    about = About.read(folder)
    told = story(about.study)
    if told is None:
        raise StudyError(f"{folder.path}: its about.json names no study, got {about.study!r}")
    console, results = Terminal(), Results.read(folder)
    write_comparisons(folder, results.comparisons)
    page = write_report(told, results, about)
    for line in [*results.left_out, *timeline.left_out(path), *storage.left_out(folder)]:
        console.warn(line)
    console.print(f"report: {page}")
    return 0


if __name__ == "__main__":
    flags.run(main)
