"""What a study has come to after each of its runs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from builders import configured, record
from tune.results.front import choose, pareto_front
from tune.results.growth import Front, Growth, in_order
from tune.results.records import CONFIRMATION, STATUSES, Record


def area(points: list[tuple[float, float]]) -> float:
    """Between the points and (0, 0), on a grid of hundredths."""
    cells = [
        (a, b) for a in range(100) for b in range(100) if any(a < x and b < y for x, y in points)
    ]
    return len(cells) / 1e4


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_is_the_area_below_the_front(seed: int) -> None:
    draws, front = random.Random(seed), Front()
    points: list[tuple[float, float]] = []
    for _ in range(20):
        points.append((draws.randrange(101), draws.randrange(101)))
        front.add(points[-1][0] / 100, points[-1][1] / 100)
        assert front.hypervolume == pytest.approx(area(points), abs=1e-9)
    front.add(points[0][0] / 100, points[0][1] / 100)
    assert front.hypervolume == pytest.approx(area(points), abs=1e-9)
    assert Front().hypervolume == 0


def trial(number: int, clean: float, robust: float, *, control: bool, ipc: int = 1) -> Record:
    changes: dict[str, Any] = {} if control else {"regularizer.weight": 0.1 + number}
    config = configured({"ipc": ipc, **changes}, control=control)
    params = {"ipc": ipc, **changes}
    return record(number, clean=clean, robust=robust, config=config, params=params)


@pytest.mark.parametrize("seed", range(10))
def test_the_best_is_what_the_search_would_choose(seed: int) -> None:
    """Whenever controls come."""
    draws = random.Random(seed)
    records = [
        trial(n, draws.random(), draws.random(), control=n % 7 == 0, ipc=1 + n // 7 % 3)
        for n in range(28)
    ]
    draws.shuffle(records)
    growth, so_far = Growth(0.3), []
    for one in records:
        so_far.append(one)
        figures = growth.add(one)
        best = choose(so_far, 0.3)
        if best is None:
            assert "best/validation/robust_accuracy" not in figures
            continue
        assert figures["best/validation/clean_accuracy"] == best.objectives[0]
        assert figures["best/validation/robust_accuracy"] == best.objectives[1]
    front = [
        tuple(round(100 * value) / 100 for value in r.objectives) for r in pareto_front(records)
    ]
    assert figures["hypervolume"] == pytest.approx(
        area([(100 * a, 100 * b) for a, b in front]), abs=0.02
    )


def test_states_and_seconds_add_up() -> None:
    growth, stage = Growth(0.03), {"name": "squeeze", "key": "k", "seconds": 2.0, "built": True}
    first, second = record(0, stages=(stage,)), record(1, status="failed")
    growth.add(first)
    growth.add(second)
    confirmed = record(0, phase=CONFIRMATION, stages=(stage, {**stage, "built": False}))
    figures = growth.add(confirmed)
    assert figures["trials/complete"] == figures["trials/failed"] == 1
    assert figures["num_trials"] == 2 and figures["stage_seconds"] == 4.0


def test_where_nothing_is_searched_nothing_is_best() -> None:
    """Trials on test images alone."""
    figures = Growth(0.03).add(record(metrics={"test/robust_accuracy": 0.5}))
    assert figures.keys() == {
        *(f"trials/{status}" for status in STATUSES),
        *("num_trials", "stage_seconds"),
    }


def test_the_order_is_that_of_their_ends() -> None:
    records = [record(n, ended=ended) for n, ended in enumerate((3.0, 0.0, 2.0, 0.0))]
    assert [one.trial for one in in_order(records)] == [1, 3, 2, 0]
