"""Comparisons as grids for people; tests/tune/results/test_comparison.py has the long table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders import configured, estimated
from guard.robustness.measures import CLEAN, ROBUST, Measure
from tune.results.comparison import Arm, Comparison, named
from tune.results.statistics import Estimate, estimate
from tune.results.tables import (
    as_markdown,
    attack_grid,
    by_chance,
    headings,
    legend,
    level,
    penalty_grid,
)

PLAIN = {"regularizer": "none"}
GUARD = {"regularizer.weight": 0.3, "regularizer.h": 0.1}
NORM = {"regularizer.kind": "gradient-norm", "regularizer.weight": 0.3}
TITLES = ["none", "curvature (λ = 0.3, h = 0.1)", "gradient-norm (λ = 0.3)"]


def found(mean: float) -> Estimate:
    """Of 100 samples and two seeds alike."""
    right = (np.arange(100) < round(100 * mean)).astype(float)
    return estimate({(seed, 0): right for seed in (0, 1)})


def comparisons(
    *settings: Mapping[str, Any], gains: Mapping[int, Estimate] | None = None
) -> list[Comparison]:
    """Arm number n is 90 % clean and n % robust."""
    arms = named([Arm(config=configured(fields)) for fields in settings])
    return [
        Comparison(
            arm=arm,
            found={CLEAN: found(0.9), ROBUST: found(n / 100)},
            gains={ROBUST: gains[n]} if gains and n in gains else {},
        )
        for n, arm in enumerate(arms)
    ]


def test_radii_stand_in_the_headings_as_people_write_them() -> None:
    others = [Measure(kind="robust", eps=eps) for eps in (2 / 255, 0.05)]
    measured = [CLEAN, ROBUST, *others]
    plain = ["clean", "robust", "robust at 2/255", "robust at 0.05"]
    assert headings(measured) == [*plain, *(f"Δ {text}" for text in plain)]


METHODS = ({"method": "sre2l"}, {"method": "cda"})
FULL = [{**method, **penalty} for method in METHODS for penalty in (PLAIN, GUARD, NORM)]


def test_methods_are_rows_and_penalties_columns() -> None:
    grid = penalty_grid(comparisons(*FULL))
    assert grid is not None
    columns, rows = grid
    assert columns == ["clean, robust", *TITLES]
    assert [row[0] for row in rows] == ["sre2l, IPC 10", "cda, IPC 10"]
    numbers = [[cell.split(", ")[1] for cell in row[1:]] for row in rows]
    assert numbers == [[f"{n}.0 ± 0.0" for n in row] for row in ((0, 1, 2), (3, 4, 5))]
    assert all(cell.startswith("90.0 ± 0.0, ") for row in rows for cell in row[1:])


@pytest.mark.parametrize(
    ("ends", "bold"), [((0.01, 0.3), True), ((-0.1, 0.3), False), ((-0.3, -0.1), False)]
)
def test_only_what_is_clearly_more_robust_is_bold(ends: tuple[float, float], bold: bool) -> None:
    grid = penalty_grid(comparisons(*FULL, gains={1: estimated(sum(ends) / 2, *ends)}))
    assert grid is not None
    cells = [cell for row in grid[1] for cell in row[1:]]
    assert ["**" in cell for cell in cells] == [False, bold, False, False, False, False]


def test_other_settings_have_rows_of_their_own_and_gaps_are_empty() -> None:
    varied = [{**fields, "sre2l.bn_weight": w} for w in (0.1, 1.0) for fields in FULL[:3]]
    grid = penalty_grid(comparisons(*varied[:-1]))
    assert grid is not None
    titles = [row[0] for row in grid[1]]
    assert titles == [f"sre2l, IPC 10, sre2l.bn_weight = {w}" for w in ("0.1", "1")]
    assert grid[1][1][-1] == ""


@pytest.mark.parametrize(
    "settings",
    [
        FULL[:3],
        [f for f in FULL if "kind" not in str(f)],
        [FULL[0], FULL[4], {**FULL[5], "ipc": 1}],
    ],
    ids=["one row", "two penalties", "mostly empty"],
)
def test_what_is_no_grid_has_none(settings: list[Mapping[str, Any]]) -> None:
    assert penalty_grid(comparisons(*settings)) is None


@pytest.mark.parametrize(
    ("seeds", "over"),
    [
        ([3, 3], "over seeds and test images"),
        ([3, 1], "over seeds and test images, where there is one seed over test images alone"),
        ([1, 1], "over test images alone: one seed says nothing of others"),
    ],
)
def test_what_an_interval_is_over_is_said(seeds: list[int], over: str) -> None:
    found = [replace(estimated(0.5), num_distillations=count) for count in seeds]
    assert level(found) == f"95 % interval {over}"
    gains = dict(enumerate(found))
    assert f"control, 95 % interval {over}; bold" in legend(comparisons(PLAIN, GUARD, gains=gains))


@pytest.mark.parametrize(("count", "end"), [(1, ""), (23, ", about 1 of these 23")])
def test_what_chance_does_is_said(count: int, end: str) -> None:
    text = f"Chance alone calls up to one difference in twenty clear{end}."
    assert by_chance(count) == text
    many = [{**GUARD, "ipc": number + 1} for number in range(count)]
    gains = dict.fromkeys(range(count), estimated(0.1))
    assert text in legend(comparisons(*many, gains=gains))


def test_nothing_is_said_of_differences_where_there_are_none() -> None:
    assert legend(comparisons(PLAIN)) == ""


def test_a_cascade_has_no_figures_by_attack() -> None:
    assert attack_grid(comparisons(*FULL)) is None


def test_a_grid_as_markdown() -> None:
    text = as_markdown((["a", "b"], [["1", "2"], ["3", ""]]))
    assert text == "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 |  |\n"
