"""tests/tune/results/test_statistics.py has the interval in itself; here are its verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from guard.errors import StudyError
from studies.bench import intervals
from studies.bench.intervals import REGIMES, Found, Regime, every, measure, summary, verdicts

NAMES = [regime.name for regime in REGIMES]


def holds(found: Found, least: float) -> bool:
    """Within two standard errors at that share, so that chance alone fails few."""
    room = 2 * found.error(least)
    shares = (found.accuracy_covered, found.gain_covered, 1 - found.clear)
    return all(share >= least - room for share in shares)


@pytest.mark.parametrize("regime", REGIMES, ids=NAMES)
def test_intervals_of_three_seeds_hold(regime: Regime) -> None:
    found = measure(regime, seeds=3, samples=100, repeats=1500)
    assert min(found.accuracy_covered, found.gain_covered, 1 - found.clear) >= 0.94
    assert max(found.accuracy_width, found.difference_width) <= 2.2


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("regime", REGIMES, ids=NAMES)
def test_intervals_hold(regime: Regime, seeds: int) -> None:
    for samples in (100, 360, 1000):
        assert holds(measure(regime, seeds, samples, 2000), 0.94)


def test_one_seed_says_nothing_of_others() -> None:
    regime = REGIMES[NAMES.index("seeds by 6 points")]
    assert holds(measure(replace(regime, luck=0), 1, 360, 1000), 0.94)
    assert not holds(measure(regime, 1, 360, 1000), 0.7)


@pytest.mark.parametrize("regime", REGIMES, ids=NAMES)
def test_verdicts_are_as_accurate_as_they_are_meant_to_be(regime: Regime) -> None:
    one, better = verdicts(regime, (0.3, 0.6), (400, 5, 100), 0)
    for arm, accuracy in ((one, 0.3), (better, 0.6)):
        error = arm.mean(axis=(1, 2)).std() / 20
        assert arm.mean() == pytest.approx(accuracy, abs=4 * error)
        between = (arm.mean(axis=2).var(axis=1, ddof=1)).mean()
        assert between >= regime.luck**2 / 2
    assert np.corrcoef(one.mean(axis=1).ravel(), better.mean(axis=1).ravel())[0, 1] > 0.1


def test_the_table_has_a_row_for_each_number_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "SAMPLES", (20,))
    found = list(every(20))
    assert found == list(every(20))
    rows = summary(found).splitlines()[2:]
    seeds = ["1, its own", "1", "2", "3", "5", "10"]
    assert [row.split(" | ")[0] for row in rows] == [f"| {text}" for text in seeds]


def test_too_few_repeats_are_refused_in_a_line() -> None:
    with pytest.raises(StudyError, match="--repeats: must be at least 2, got 1"):
        intervals.main(["--repeats", "1"])
