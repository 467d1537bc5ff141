from __future__ import annotations

import math

import numpy as np
import pytest

from tune.results import statistics
from tune.results.statistics import SeedPair, difference, estimate

Runs = dict[SeedPair, np.ndarray]


def simulated(
    draws: np.random.Generator, seeds: int, samples: int, sd: float, gain: float = 0.0
) -> Runs:
    """Verdicts of a population whose accuracy varies with the seed and with the sample."""
    hardness = draws.normal(0, 2, samples)
    shifts = draws.normal(0, sd, seeds)
    chances = 1 / (1 + np.exp(-(1 + gain + hardness + shifts[:, None])))
    verdicts = draws.random((seeds, samples)) < chances
    return {(seed, 0): row for seed, row in enumerate(verdicts)}


def truth(sd: float, gain: float = 0.0) -> float:
    """The population's accuracy: hardness and shift are normal, so their sum is."""
    grid = np.linspace(-8, 8, 4001)
    density = np.exp(-(grid**2) / 2)
    chances = 1 / (1 + np.exp(-(1 + gain + math.hypot(2, sd) * grid)))
    return float((density * chances).sum() / density.sum())


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarser intervals, in a quarter of the time."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize("sd", [0.0, 0.3, 0.8])
def test_intervals_of_ten_seeds_cover_the_truth(sd: float) -> None:
    draws, hits, count = np.random.default_rng(0), 0, 250
    for _ in range(count):
        found = estimate(simulated(draws, 10, 150, sd))
        hits += found.low <= truth(sd) <= found.high
    assert 0.91 <= hits / count <= 0.99


@pytest.mark.usefixtures("fewer_resamples")
def test_intervals_of_differences_cover_the_truth_and_rarely_name_a_false_winner() -> None:
    draws, covered, clear, count = np.random.default_rng(1), 0, 0, 250
    for _ in range(count):
        hardness = int(draws.integers(2**31))
        ours, theirs = (
            simulated(np.random.default_rng([hardness, arm]), 5, 150, 0.3) for arm in (0, 1)
        )
        found = difference(ours, theirs)
        covered += found.low <= 0 <= found.high
        clear += found.is_clear
    assert covered + clear == count
    assert 0.91 <= covered / count <= 0.99


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
    assert estimate({(0, 0): [True] * 5, (1, 0): [True] * 5}).low == 1


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
