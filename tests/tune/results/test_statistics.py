from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from tune.results.statistics import SeedPair, difference, estimate, holm, interval

Runs = dict[SeedPair, np.ndarray]


def simulated(draws: np.random.Generator, seeds: int, samples: int, sd: float) -> Runs:
    """Verdicts of a population whose accuracy varies with the seed and with the sample."""
    hardness = draws.normal(0, 2, samples)
    shifts = draws.normal(0, sd, seeds)
    chances = 1 / (1 + np.exp(-(1 + hardness + shifts[:, None])))
    verdicts = draws.random((seeds, samples)) < chances
    return {(seed, 0): row for seed, row in enumerate(verdicts)}


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("of_samples", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("of_seeds", [0.0, 0.1, 0.3])
def test_the_interval_holds_whatever_varies(seeds: int, of_samples: float, of_seeds: float) -> None:
    """Whether seeds, samples or single verdicts vary most; deviations against a verdict's of 1."""
    draws, count, samples = np.random.default_rng(0), 4000, 30
    values = draws.normal(0, 1, (count, seeds, samples))
    values += draws.normal(0, of_samples, (count, 1, samples))
    values += draws.normal(0, of_seeds, (count, seeds, 1))
    low, high = interval(values)
    assert np.mean((low <= 0) & (0 <= high)) >= 0.945  # 0.95 less 1.5 standard errors


@pytest.mark.parametrize(("seeds", "widest"), [(3, 2.2), (5, 1.5), (10, 1.25)])
def test_it_is_not_wider_than_a_few_seeds_make_it(seeds: int, widest: float) -> None:
    """Against an interval that knows the variance, where samples alone vary and where seeds do."""
    draws, count, samples = np.random.default_rng(1), 1000, 100
    for of_seeds in (0.0, 1.0):
        values = draws.normal(0, 1, (count, seeds, samples))
        values += draws.normal(0, 1, (count, 1, samples))
        values += draws.normal(0, of_seeds, (count, seeds, 1))
        low, high = interval(values)
        known = 2 * 1.96 * math.sqrt((1 + 1 / seeds) / samples + of_seeds**2 / seeds)
        assert 1 <= np.mean(high - low) / known <= widest


def test_an_accuracy_has_wilsons_interval() -> None:
    """https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval, at Student's t."""
    right, samples = 49, 50
    t = float(stdtrit(samples - 1, 0.975))
    share, effective = right / samples, samples - 1  # of the unbiased variance
    centre = (right / samples + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective)
    half *= math.sqrt(share * (1 - share) / effective + t**2 / (4 * effective**2))
    found = estimate({(0, 0): np.arange(samples) < right})
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_nothing_wrong_is_not_never_wrong() -> None:
    for runs in ({(0, 0): [True] * 50}, {(s, 0): [True] * 50 for s in range(3)}):
        found = estimate(runs)
        assert found.low == pytest.approx(0.025 ** (1 / 50)) and found.high == 1
    assert estimate({(0, 0): [False] * 50}).high == pytest.approx(1 - 0.025 ** (1 / 50))


def test_pairs_on_the_same_samples_tell_small_differences_apart() -> None:
    draws = np.random.default_rng(2)
    base = simulated(draws, 6, 300, 0.5)
    better = {run: row | (draws.random(300) < 0.1) for run, row in base.items()}
    apart, paired = (estimate(better), estimate(base)), difference(better, base)
    assert apart[0].low < apart[1].high  # the intervals overlap
    assert paired.is_clear and paired.low > 0
    assert paired.mean == pytest.approx(apart[0].mean - apart[1].mean)
    assert difference(base, better).mean == -paired.mean


def test_seeds_of_distillation_and_of_students_are_kept_apart() -> None:
    levels = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.8, (1, 1): 1.0}
    runs = {run: np.arange(10) < 10 * level for run, level in levels.items()}
    found = estimate(runs)
    assert found.mean == pytest.approx(0.75)
    assert found.distillation_std == pytest.approx(np.std([0.6, 0.9], ddof=1))
    assert found.student_std == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert (found.num_distillations, found.num_students, found.num_samples) == (2, 4, 10)


def test_one_seed_gives_the_binomial_interval_of_its_samples() -> None:
    found = estimate({(7, 0): np.arange(400) < 320})
    error = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert found.low == pytest.approx(0.8 - error, abs=0.01)
    assert found.high == pytest.approx(0.8 + error, abs=0.01)
    assert math.isnan(found.distillation_std) and math.isnan(found.student_std)
    assert str(found).startswith("0.800 one seed [0.7")


def test_more_seeds_and_more_samples_make_the_interval_narrower() -> None:
    draws = np.random.default_rng(3)
    runs = simulated(draws, 20, 400, 0.5)
    few = {run: row for run, row in runs.items() if run[0] < 3}
    short = {run: row[:50] for run, row in runs.items()}
    widths = [found.high - found.low for found in map(estimate, (runs, few, short))]
    assert widths[0] < min(widths[1:])


def test_the_interval_stays_in_the_range_and_repeats() -> None:
    runs = {(0, 0): np.arange(20) < 19, (1, 0): np.arange(20) < 20}
    found = estimate(runs)
    assert 0 <= found.low < found.mean < found.high <= 1
    assert estimate(runs) == estimate(dict(reversed(runs.items()))) or math.isnan(found.student_std)
    assert estimate(runs).low == found.low


def test_differences_may_be_negative() -> None:
    ours = {(0, 0): np.zeros(30, bool), (1, 0): np.arange(30) < 2}
    theirs = {run: ~row for run, row in ours.items()}
    found = difference(ours, theirs)
    assert -1 <= found.low < found.mean < found.high < 0


@pytest.mark.parametrize(
    ("runs", "message"),
    [({}, "same samples"), ({(0, 0): [True], (1, 0): [True, False]}, r"got \[1, 2\]")],
)
def test_runs_that_do_not_fit_are_refused(runs: Runs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(runs)


def test_pairs_need_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="different seeds"):
        difference({(0, 0): [True]}, {(1, 0): [True]})


def test_arms_that_agree_on_every_image_may_still_differ_on_others() -> None:
    found = difference({(0, 0): [True] * 50}, {(0, 0): [True] * 50})
    reach = 1 - 0.025 ** (1 / 50)
    assert (found.low, found.high) == (pytest.approx(-reach), pytest.approx(reach))
    assert found.p == 1.0 and not found.is_clear


def test_p_is_where_the_interval_touches_zero() -> None:
    draws = np.random.default_rng(2)
    base = simulated(draws, 3, 300, 0.5)
    better = {run: row | (draws.random(300) < 0.2) for run, row in base.items()}
    found = difference(better, base)
    assert 1e-6 < found.p < 0.05
    at, beyond = (difference(better, base, confidence=1 - found.p * k) for k in (1.01, 0.99))
    assert at.is_clear and not beyond.is_clear
    assert difference(base, better).p == pytest.approx(found.p, rel=1e-2)
    assert math.isnan(estimate(base).p)


@pytest.mark.parametrize(
    ("chances", "clear"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.04, 0.04], [False, False]),
        ([0.04, 0.02], [True, True]),
        ([0.001, 0.03, 0.02, 0.2], [True, False, False, False]),
        ([0.001, 0.03, 0.012, 0.01], [True, True, True, True]),
    ],
)
def test_holms_procedure_goes_down_from_the_smallest(
    chances: list[float], clear: list[bool]
) -> None:
    assert holm(chances) == clear


def test_a_family_of_nothing_is_rarely_called_clear() -> None:
    draws, called = np.random.default_rng(0), 0
    for _ in range(60):
        base = simulated(draws, 3, 100, 0.5)
        family = [difference(simulated(draws, 3, 100, 0.5), base).p for _ in range(8)]
        called += any(holm(family))
    assert called <= 7
