from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from studies.figures import pareto_figure, save_png
from studies.summary import print_places, print_summary
from tune.records import Record, StudyFolder

Make = Callable[..., Record]


def said(records: list[Record], folder: StudyFolder) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_summary(console, folder, records, 0.03)
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
    figure = pareto_figure(records, 0.03)
    (axes,) = figure.axes
    drawn = sorted(tuple(xy) for points in axes.collections for xy in points.get_offsets())
    assert drawn == [(0.5, 0.2), (0.88, 0.45), (0.9, 0.1)]
    save_png(figure, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
