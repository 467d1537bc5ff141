from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from guard.trial import TrialConfig
from studies.reporting.figures import pareto_figure, save_png
from studies.reporting.terminal import print_places, print_summary, print_verdicts
from tune.results.comparison import Arm, Comparison
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.results.records import Record
from tune.results.statistics import Estimate

Make = Callable[..., Record]


def said(records: list[Record], folder: StudyFolder) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(console, records, 0.03, [])
    print_places(console, folder, folder.tracking_uri)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_choice_is_held_against_its_baseline(make_record: Make, tmp_path: Path) -> None:
    records = [
        make_record(0, 0.9, 0.1, control=True),
        make_record(1, 0.88, 0.45),
        make_record(2, 0, 0, status="diverged"),
    ]
    text = said(records, StudyFolder(tmp_path, "s"))
    assert "trial 1, sre2l ipc 10 curvature λ=0.1 h=0.1" in text
    assert "clean   0.900 unregularized -> 0.880 chosen (-2.0 points" in text
    assert "robust  0.100 unregularized -> 0.450 chosen (+35.0 points" in text
    assert "3 trials, of which 1 diverged" in text
    assert f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in text


def test_a_baseline_that_nothing_beats_is_called_so(make_record: Make, tmp_path: Path) -> None:
    records = [make_record(0, 0.9, 0.5, control=True), make_record(1, 0.9, 0.4)]
    assert "no penalty has been found to help" in said(records, StudyFolder(tmp_path, "s"))


def test_a_study_without_a_result_says_so(make_record: Make, tmp_path: Path) -> None:
    records = [make_record(0, 0, 0, status="failed")]
    assert "nothing to compare" in said(records, StudyFolder(tmp_path, "s"))


def test_the_front_is_drawn_with_every_trial(make_record: Make, tmp_path: Path) -> None:
    records = [
        make_record(0, 0.9, 0.1, control=True),
        make_record(1, 0.88, 0.45),
        make_record(2, 0.5, 0.2, ipc=1),
        make_record(3, 0, 0, status="diverged"),
    ]
    figure = pareto_figure(records, choose(records, 0.03))
    (axes,) = figure.axes
    drawn = sorted(tuple(xy) for points in axes.collections for xy in points.get_offsets())
    assert drawn == [(0.5, 0.2), (0.88, 0.45), (0.9, 0.1)]
    save_png(figure, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_doubtful_figure_carries_its_warning(make_record: Make, tmp_path: Path) -> None:
    doubtful = make_record(1, 0.88, 0.85)
    metrics = {**doubtful.metrics, "reliability/zero_gradients": 0.9}
    records = [make_record(0, 0.9, 0.1, control=True), replace(doubtful, metrics=metrics)]
    text = said(records, StudyFolder(tmp_path, "s"))
    assert "(unreliable: vanishing-gradient)" in " ".join(text.split())
    assert "Robust accuracies that are not to be believed" in text
    figure = pareto_figure(records, choose(records, 0.03))
    assert "evaluation unreliable" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert "vanishing-gradient" in records[1].row()["flags"]


def comparison(gain: Estimate) -> Comparison:
    own = Estimate(0.5, 0.4, 0.6, 0.02, float("nan"), 3, 3, 359)
    both = {"clean": gain, "robust": gain}
    return Comparison(Arm(TrialConfig()), {"clean": own, "robust": own}, both)


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
    console = Console(file=io.StringIO(), width=200)
    gain = Estimate(mean, low, high, 0.02, float("nan"), 3, 3, 359)
    print_verdicts(console, [comparison(gain)])
    assert isinstance(console.file, io.StringIO)
    assert f" against its unregularized baseline: {verdict} " in console.file.getvalue()
    assert f"({100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points, 3 seeds)" in (
        console.file.getvalue()
    )
