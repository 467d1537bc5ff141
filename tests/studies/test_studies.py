"""Every study end to end on a real Ray, cut down; they share one folder and its stages."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studies import gallery
from studies.catalogue import STUDIES
from studies.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = [
    "model.width=4",
    "squeeze.epochs=2",
    "sre2l.iterations=10",
    "cda.iterations=10",
    "dc.iterations=1",
    "dsa.iterations=1",
    "mtt.iterations=1",
    "mtt.experts.count=1",
    "tesla.iterations=1",
    "tesla.experts.count=1",
    "mat.iterations=1",
    "mat.experts.count=1",
    "student.train.epochs=5",
    "evaluation.attacks=pgd3,fgsm",
    "evaluation.max_samples=100",
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def command(study: Study, output: Path) -> list[str]:
    varied = "model.width=" if study.name == "scaling" else "nothing"
    chosen = [setting for setting in SMALL if not setting.startswith(varied)]
    settings = [part for setting in chosen for part in ("--set", setting)]
    where = ["--output", str(output), "--seeds", "2"]
    return [sys.executable, "-m", f"studies.{study.name}", *where, *settings]


def run(study: Study, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(study, output), capture_output=True, text=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_ends_in_tables_figures_and_a_report(study: Study, output: Path) -> None:
    done = run(study, output)
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

    again = run(study, output)
    assert again.returncode == 0 and "starting Ray" not in again.stdout
    assert rows(folder / "comparison.csv") == compared


def test_more_workers_are_counted(output: Path) -> None:
    measured = rows(output / "scaling" / "measured.csv")
    assert measured[0]["workers"] == "1"
    assert all(float(row["trials_a_minute"]) > 0 for row in measured)
    assert not list((output / "scaling").glob("throughput-*"))


def test_sigterm_ends_a_study_as_ctrl_c_does(
    interrupted: Callable[..., str], tmp_path: Path
) -> None:
    """A batch system sends it."""
    interrupted(command(gallery.STUDY, tmp_path), "[1/8]", signal.SIGTERM)
    assert rows(tmp_path / "gallery" / "results.csv")
