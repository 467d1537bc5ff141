"""Who goes on from a rung."""

from __future__ import annotations

import numpy as np
import pytest

from tune.halving import Figures, Halving, fronts, ranks


def made(*points: tuple[float, float]) -> list[Figures]:
    """Of the share of right answers that stay right, and of robust accuracy."""
    return [Figures(clean=robust / kept if kept else 1.0, robust=robust) for kept, robust in points]


def random_points(seed: int, count: int) -> list[tuple[float, float]]:
    """With equals among them, in both figures and in one."""
    draws = 2.0 ** -np.random.default_rng(seed).integers(0, 6, (count, 2))
    return [(float(kept), float(robust)) for kept, robust in draws]


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


@pytest.mark.parametrize("seed", range(5))
def test_fronts_are_peeled_by_who_beats_whom(seed: int) -> None:
    points = random_points(seed, 25)
    left, expected = list(range(len(points))), []
    while left:
        front = [n for n in left if not any(beats(points[m], points[n]) for m in left)]
        expected.append(set(front))
        left = [n for n in left if n not in front]
    assert list(map(set, fronts(made(*points)))) == expected


def test_figures_are_accuracy_under_attack_and_what_it_keeps_of_the_clean_one() -> None:
    kept = [Figures(clean=clean, robust=0.3).kept for clean in (0.6, 0.4)]
    assert kept == [0.5, pytest.approx(0.75)] and Figures(clean=0.0, robust=0.0).kept == 0.0
    inaccurate, accurate = Figures(clean=0.4, robust=0.3), Figures(clean=0.8, robust=0.3)
    assert ranks([accurate, inaccurate]) == [1, 0]


def test_nothing_right_is_the_last_place_however_wrong() -> None:
    nothing = [Figures(clean=clean, robust=0.0) for clean in (0.0, 0.9)]
    assert ranks([nothing[0], Figures(clean=0.2, robust=0.1), nothing[1]])[1] == 0
    assert len(fronts(nothing)) == 1


def test_within_a_front_the_ends_come_first_then_what_has_most_room() -> None:
    front = made((0.9, 0.1), (0.88, 0.12), (0.7, 0.5), (0.5, 0.9))
    order = [number for _, number in sorted(zip(ranks(front), range(4), strict=True))]
    assert order == [3, 0, 2, 1]


def test_of_two_one_goes_on_and_each_once() -> None:
    halving = Halving(2)
    halving.arrive(0, "a", *made((0.5, 0.5)))
    assert halving.next() == (0, "a")  # the first one may
    halving.go_on(0, "a")
    assert halving.next() is None
    halving.arrive(1, "a", *made((0.6, 0.6)))
    assert halving.next() == (1, "a")  # it is better than the one that has gone
    halving.go_on(1, "a")
    halving.arrive(2, "a", *made((0.7, 0.7)))
    halving.arrive(3, "a", *made((0.4, 0.4)))
    assert halving.next() == (2, "a")
    halving.go_on(2, "a")
    assert halving.next() is None and halving.ranked("a") == [2, 1, 0, 3]


def test_the_rung_that_was_reached_last_comes_first() -> None:
    halving = Halving(2)
    for trial, rung in enumerate(["a", "b"]):
        halving.arrive(trial, rung, *made((0.5, 0.5)))
    assert halving.next() == (1, "b")


def test_a_better_one_that_comes_late_takes_no_place_away() -> None:
    halving = Halving(3)
    for trial in range(6):
        halving.arrive(trial, "a", *made((0.5, 0.1 * trial)))
    assert halving.best("a") == [5, 4]
    for trial in (5, 4):
        halving.go_on(trial, "a")
    halving.arrive(6, "a", *made((0.9, 0.9)))
    assert halving.next() == (6, "a") and halving.places("a") == 3


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_which_they_came_makes_no_difference(seed: int) -> None:
    """Or a search that is over would go on when its command is run again."""
    figures = made(*random_points(seed, 12))
    found = []
    for order in (range(12), np.random.default_rng(seed).permutation(12)):
        halving = Halving(2)
        for number in map(int, order):
            halving.arrive(number, "a", figures[number])
        found.append(halving.best("a"))
    assert found[0] == found[1]
