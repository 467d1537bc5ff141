"""Every study end to end on a real Ray, cut down; they share one folder and its stages."""

from __future__ import annotations

import csv
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from studies.design.stories import stories
from studies.design.study import Study

STUDIES = [story for story in stories().values() if isinstance(story, Study)]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def run(
    quick: Callable[..., list[str]], output: Path
) -> Callable[[Study], subprocess.CompletedProcess[str]]:
    def run(study: Study) -> subprocess.CompletedProcess[str]:
        command = quick(study.name, output, "--seeds", "2")
        return subprocess.run(command, capture_output=True, text=True)

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_ends_in_tables_figures_and_a_report(
    study: Study, run: Callable[[Study], subprocess.CompletedProcess[str]], output: Path
) -> None:
    done = run(study)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = output / study.name
    results = rows(folder / "results.csv")
    assert {row["status"] for row in results} <= {"complete", "diverged"}
    compared = rows(folder / "comparison.csv")
    diverged = sum(row["status"] == "diverged" for row in results)
    assert sum(int(row["seeds"]) for row in compared) == len(results) - diverged
    assert any(row["regularizer"] == "none" for row in compared)
    assert list(folder.glob("*.png")) and (folder / "comparison.md").is_file()
    page = (folder / "report.html").read_text()
    assert study.question in page.replace("&#39;", "'")
    assert (folder / "measured.csv").is_file() == (study.measure is not None)

    again = run(study)
    assert again.returncode == 0 and "starting Ray" not in again.stdout
    assert rows(folder / "comparison.csv") == compared


def test_more_workers_are_counted(output: Path) -> None:
    measured = rows(output / "scaling" / "measured.csv")
    assert measured[0]["workers"] == "1"
    assert all(float(row["trials_a_minute"]) > 0 for row in measured)
    assert not list((output / "scaling").glob("throughput-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_a_study_with_its_tables(
    number: signal.Signals,
    interrupted: Callable[..., str],
    quick: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    interrupted(quick("gallery", tmp_path, "--seeds", "2"), "[1/8]", number)
    assert rows(tmp_path / "gallery" / "results.csv")
