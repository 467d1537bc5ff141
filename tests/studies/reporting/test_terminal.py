from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import configured, estimated, record
from guard.robustness.measures import CLEAN, ROBUST
from studies import sweep
from studies.reporting import delivery
from studies.reporting.console import Terminal
from studies.reporting.figures import pareto_figure, save_png
from studies.reporting.series import Search
from studies.reporting.terminal import (
    print_places,
    print_summary,
    print_verdicts,
)
from tune.results.comparison import Arm, Comparison
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.results.records import Record
from tune.results.rows import row_of
from tune.results.statistics import Estimate

PLAIN = configured(control=True)


def said(records: list[Record], folder: StudyFolder) -> str:
    console = Terminal(file=io.StringIO(), width=200)
    print_summary(console, records, 0.03, [])
    print_places(console, folder, folder.tracking_uri)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_choice_is_held_against_its_baseline(tmp_path: Path) -> None:
    records = [
        record(0, 0.9, 0.1, PLAIN),
        record(1, 0.88, 0.45),
        record(2, status="diverged"),
    ]
    text = said(records, StudyFolder(tmp_path, "s"))
    assert "trial 1, sre2l, IPC 10, curvature (λ = 0.1, h = 0.1)" in text
    assert "clean   0.900 unregularized -> 0.880 chosen (-2.0 points" in text
    assert "robust  0.100 unregularized -> 0.450 chosen (+35.0 points" in text
    assert "3 trials, of which 1 diverged" in text
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in text


def test_a_search_that_saw_validation_images_alone_is_told(tmp_path: Path) -> None:
    own = [record(0, 0.9, 0.1, PLAIN), record(1, 0.88, 0.45)]
    records = [
        replace(one, metrics={k: v for k, v in one.metrics.items() if not k.startswith("test/")})
        for one in own
    ]
    text = said(records, StudyFolder(tmp_path, "s"))
    assert "val robust" in text and "test robust" not in text
    assert "trial 1, sre2l, IPC 10, curvature" in text and "test clean" not in text


def test_paths_are_printed_as_they_are_and_quoted_in_commands(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "[bold]my :cat:", "s")
    folder.path.mkdir(parents=True)
    for name in ("best.json", "results.csv"):
        (folder.path / name).touch()
    lines = said([record(0, 0.9, 0.5, PLAIN)], folder).splitlines()
    assert f"  every trial     {folder.path}/results.csv" in lines
    (again,) = (line for line in lines if line.startswith("Run the choice again:"))
    command = shlex.split(again.partition(": ")[2])
    assert command == ["uv", "run", "python", "-m", "studies.trial", f"{folder.path}/best.json"]
    (ui,) = (line for line in lines if line.startswith("Compare the runs:"))
    assert shlex.split(ui)[-1] == folder.tracking_uri


def test_what_mlflow_has_not_got_is_told_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "conclusion", lambda story, results: "It is so.")
    results: Any = SimpleNamespace(records=())
    closed: list[Any] = []
    for trouble in ("", "MLflow: 2 trials are not delivered yet (full)"):
        tracker: Any = SimpleNamespace(
            close=lambda *args: closed.append(args[1:3]), trouble=trouble
        )
        delivered = delivery.deliver(Terminal(), tracker, sweep.STORY, results, done=not trouble)
        assert delivered == (not trouble)
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", f"{trouble}\n" if trouble else "")
    assert closed == [("FINISHED", "It is so."), ("KILLED", "It is so.")]


def test_a_baseline_that_nothing_beats_is_called_so(tmp_path: Path) -> None:
    records = [record(0, 0.9, 0.5, PLAIN), record(1, 0.9, 0.4)]
    text = said(records, StudyFolder(tmp_path, "s"))
    assert "That is the baseline itself" in text and "search.max_clean_drop" in text


def test_a_study_without_a_result_says_so(tmp_path: Path) -> None:
    records = [record(0, status="failed")]
    assert "nothing to compare" in said(records, StudyFolder(tmp_path, "s"))


def test_the_front_is_drawn_with_every_trial(tmp_path: Path) -> None:
    records = [
        record(0, 0.9, 0.1, PLAIN),
        record(1, 0.88, 0.45),
        record(2, 0.5, 0.2, configured({"ipc": 1})),
        record(3, status="diverged"),
    ]
    figure = pareto_figure(Search.of(records), choose(records, 0.03))
    (axes,) = figure.axes
    drawn = {tuple(xy) for points in axes.collections for xy in points.get_offsets()}
    assert drawn == {(0.5, 0.2), (0.88, 0.45), (0.9, 0.1)}
    barred = "loses too much clean accuracy"
    assert barred in [text.get_text() for text in figure.legends[0].get_texts()]
    save_png(figure, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_doubtful_figure_carries_its_warning(tmp_path: Path) -> None:
    doubtful = record(1, 0.88, 0.85)
    metrics = {**doubtful.metrics, "reliability/zero_gradients": 0.9}
    records = [record(0, 0.9, 0.1, PLAIN), replace(doubtful, metrics=metrics)]
    text = said(records, StudyFolder(tmp_path, "s"))
    assert "(beware: vanishing-gradient)" in " ".join(text.split())
    assert "Accuracies that are not to be taken as they are" in text
    figure = pareto_figure(Search.of(records), choose(records, 0.03))
    assert "flagged" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert "vanishing-gradient" in row_of(records[1])["flags"]


def comparison(gain: Estimate) -> Comparison:
    own, both = estimated(0.5), (CLEAN, ROBUST)
    arm = Arm(config=configured())
    found, gains = (dict.fromkeys(both, of) for of in (own, gain))
    return Comparison(arm=arm, found=found, gains=gains)


@pytest.mark.parametrize(
    ("low", "mean", "high", "verdict"),
    [
        (0.01, 0.1, 0.2, "more robust"),
        (-0.2, -0.1, -0.01, "less robust"),
        (-0.01, 0.1, 0.2, "no clear difference"),
        (-0.2, -0.1, 0.01, "no clear difference"),
    ],
)
def test_a_winner_needs_an_interval_without_zero(
    low: float, mean: float, high: float, verdict: str
) -> None:
    console = Terminal(file=io.StringIO(), width=200)
    print_verdicts(console, [comparison(estimated(mean, low, high))])
    assert isinstance(console.file, io.StringIO)
    assert f" against its unregularized baseline: {verdict} " in console.file.getvalue()
    assert f"({100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points, 3 seeds)" in (
        console.file.getvalue()
    )


PLACES = {
    "sqlite:////my runs/mlflow.db": "uv run mlflow ui --backend-store-uri "
    "'sqlite:////my runs/mlflow.db'",
    "postgresql://me:secret@h/db": "uv run --extra postgres mlflow ui --backend-store-uri "
    "'postgresql://me:***@h/db'",
    "http://me:secret@h:5000": "MLflow          http://***@h:5000",
}  # fmt: skip


@pytest.mark.parametrize(("uri", "line"), PLACES.items())
def test_the_place_of_the_runs_is_quoted_and_has_no_password(
    tmp_path: Path, uri: str, line: str
) -> None:
    console = Terminal(file=io.StringIO(), width=60)
    print_places(console, StudyFolder(tmp_path, "s"), uri)
    assert isinstance(console.file, io.StringIO)
    assert line in console.file.getvalue()
