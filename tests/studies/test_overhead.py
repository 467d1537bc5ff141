from __future__ import annotations

import csv
from pathlib import Path

import pytest

from guard.errors import StudyError
from studies import overhead

NETWORKS = tuple(f"{own}." for own in ("dc", "dm", "idm", "ncfm", "rome", "c2r", "mtt"))
SMALL = ["--image-size", "8", "--batch-size", "4", "--student-steps", "4", "--rounds", "1"]


def test_every_step_has_a_row(tmp_path: Path) -> None:
    models = [f"{name}model.width=4" for name in ("", *NETWORKS)]
    sets = [part for text in ("model.depth=2", *models) for part in ("--set", text)]
    assert overhead.main([*SMALL, "--output", str(tmp_path), *sets]) == 0
    with (tmp_path / "overhead" / "overhead.csv").open(newline="") as file:
        rows = {row["step"]: row for row in csv.DictReader(file)}
    assert {
        "plain",
        overhead.PRESETS_OWN,
        *overhead.WHOLE,
        "class by class",
        "vectorised",
    } < rows.keys()
    passes = {name: float(row["forward_passes"]) for name, row in rows.items()}
    assert passes["plain"] == pytest.approx(3, abs=0.5)
    assert passes["plain"] < passes["gradient-norm"] < passes["curvature"]
    assert passes["plain"] < passes[overhead.PRESETS_OWN] < 0.7 * passes["curvature"]
    assert passes["curvature, train"] < passes["curvature"] - 2
    assert passes["pgd-at"] == pytest.approx(passes["plain"] + 2 * 7, abs=1)
    assert passes["pgd-at, 10 steps"] == pytest.approx(passes["plain"] + 2 * 10, abs=1)
    assert passes["pgd-at, ls-pgd"] == pytest.approx(passes["plain"] + 2 + 3, abs=1)
    images = (10 * 4 + 2 * 100) / 4
    assert passes["dm"] == pytest.approx(images, rel=0.2)
    more = 10 * 2 * 3  # of ten batches, forward and back to the image in each of three steps
    assert passes["rome"] - passes["idm"] == pytest.approx(more, rel=0.2)
    contrast = (2 * 3 + 2) * 100 / 4  # the images are attacked and looked at once more
    assert passes["c2r"] - passes["rome"] == pytest.approx(contrast, rel=0.2)
    assert passes["ncfm"] > 0.9 * passes["idm"]
    for name in ("running statistics", "of each class", "running statistics, cda"):
        assert passes[name] == pytest.approx(2, abs=0.5)
    assert passes["as they are"] == pytest.approx(1, abs=0.3)
    assert passes["attacked, 10 steps"] == pytest.approx(1 + 2 * 10, rel=0.2)
    assert passes["natural"] == pytest.approx(3, abs=0.5)
    assert passes["rslad, 10 steps"] == pytest.approx(6 + 2 * 10, rel=0.2)
    assert passes["labels by a teacher"] == pytest.approx(1, abs=0.3)
    assert passes["curvature, a quarter"] < passes["curvature"]
    memory = {name: float(row["peak_mebibytes"]) for name, row in rows.items()}
    assert memory["adjoint, 4 steps"] < 0.6 * memory["unroll, 4 steps"]
    assert memory["adjoint, 20 steps"] < 2 * memory["adjoint, 4 steps"]


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(StudyError, match="must be at least 1, got 0"):
        overhead.main(["--rounds", "0"])
