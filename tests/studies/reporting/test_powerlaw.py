from __future__ import annotations

import math

import numpy as np
import pytest

from studies.reporting.powerlaw import FARTHEST, PowerLaw, fit

SIZES = (1.0, 2.0, 5.0, 10.0, 20.0)
SAMPLES = 1000


def exact(constant: float, exponent: float) -> list[tuple[float, float]]:
    return [(n, constant * n**-exponent) for n in SIZES]


@pytest.mark.parametrize(("constant", "exponent"), [(0.5, 0.4), (0.9, 1.1), (0.05, -0.3)])
def test_an_exact_law_is_recovered(constant: float, exponent: float) -> None:
    law = fit(exact(constant, exponent), SAMPLES)
    assert law.exponent == pytest.approx(exponent)
    assert law.constant == pytest.approx(constant)
    assert law.low == pytest.approx(exponent, abs=1e-6)
    assert law.high == pytest.approx(exponent, abs=1e-6)
    assert law.largest == 20


def test_a_law_says_the_error_at_a_size() -> None:
    law = fit(exact(0.5, 0.4), SAMPLES)
    assert [law.error(n) for n in SIZES] == pytest.approx([error for _, error in exact(0.5, 0.4)])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    exponent, covered, repetitions = 0.35, 0, 200
    for _ in range(repetitions):
        points = [
            (n, error * math.exp(0.2 * draws.standard_normal()))
            for n, error in exact(0.6, exponent)
            for _ in range(3)
        ]
        law = fit(points, SAMPLES)
        assert law.low < law.exponent < law.high
        covered += law.low <= exponent <= law.high
    assert 0.9 <= covered / repetitions < 1


def test_the_interval_is_student_s_of_the_slope() -> None:
    points = [(1.0, 0.5), (2.0, 0.3), (4.0, 0.24), (8.0, 0.13)]
    law = fit(points, SAMPLES)
    x, y = np.log(np.array(points)).T
    design = np.stack([np.ones(4), x], axis=1)
    (intercept, slope), (residual,), *_ = np.linalg.lstsq(design, y, rcond=None)
    error = math.sqrt(residual / 2 / np.square(x - x.mean()).sum())
    reach = 4.302652729911275 * error  # the 97.5 % point of Student's t with 2 degrees of freedom
    assert law.exponent == pytest.approx(-slope)
    assert law.constant == pytest.approx(math.exp(intercept))
    assert (law.low, law.high) == pytest.approx((-slope - reach, -slope + reach))


def test_an_error_of_zero_counts_as_half_a_sample() -> None:
    points = [(1.0, 0.1), (2.0, 0.05), (4.0, 0.0)]
    assert fit(points, 100) == fit([*points[:2], (4.0, 0.005)], 10**6)


def test_what_is_needed_is_where_the_law_reaches_an_error() -> None:
    law = fit(exact(0.5, 0.5), SAMPLES)
    assert law.needed(0.1) == pytest.approx(25)
    assert law.error(25) == pytest.approx(0.1)


def law(exponent: float = 1.0, low: float = 0.5, constant: float = 1.0) -> PowerLaw:
    return PowerLaw(
        exponent=exponent,
        low=low,
        high=2 * exponent - low,
        constant=constant,
        smallest=1,
        largest=20,
    )


@pytest.mark.parametrize(("exponent", "low"), [(0.3, -0.1), (0.3, 0.0), (-0.3, -0.5)])
def test_nothing_is_needed_that_would_not_clearly_help(exponent: float, low: float) -> None:
    assert law(exponent, low).needed(0.5) is None


def test_nothing_is_said_below_what_was_measured() -> None:
    assert law(constant=0.3).needed(0.299) == pytest.approx(1.0033, abs=1e-3)
    assert law(constant=0.3).needed(0.301) is None


def test_nothing_is_said_beyond_ten_times_what_was_measured() -> None:
    farthest = FARTHEST * 20
    assert law().needed(1 / farthest * 1.001) == pytest.approx(farthest, rel=0.01)
    assert law().needed(1 / farthest * 0.999) is None


@pytest.mark.parametrize(
    "points",
    [[], [(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.4)], [(5.0, 0.5), (5.0, 0.4), (5.0, 0.6)]],
)
def test_too_few_points_or_sizes_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="a law needs three points at two sizes"):
        fit(points, SAMPLES)


def test_two_sizes_are_enough() -> None:
    found = fit([(1.0, 0.4), (1.0, 0.5), (10.0, 0.1), (10.0, 0.2)], SAMPLES)
    assert found.low < found.exponent < found.high


def test_a_flat_line_needs_nothing_that_can_be_said() -> None:
    law = fit([(1, 0.1), (10, 0.1), (100, 0.1)], 1000)
    assert law.needed(0.05) is None


def test_a_tiny_exponent_does_not_overflow() -> None:
    assert law(1e-5, 1e-6, 0.5).needed(1e-3) is None
