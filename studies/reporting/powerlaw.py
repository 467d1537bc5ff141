"""Power laws through errors over seeds: error = c·n^(−α)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune.results.statistics import CONFIDENCE

FARTHEST = 10.0
"""A law says nothing beyond so many times the largest n that was measured."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A straight line through (log n, log error), by least squares over all seeds' points."""

    exponent: float
    """α; above 0 where more helps."""
    low: float
    high: float
    """Its 95 % interval, by Student's t."""
    constant: float
    """c, the error at n = 1."""
    smallest: float
    largest: float
    """Of the n that were measured."""

    def error(self, n: float) -> float:
        return float(self.constant * n**-self.exponent)

    def needed(self, error: float) -> float | None:
        """The n at which the law reaches an error in (0, 1); None where more does not clearly help,
        or where that is below the smallest or beyond ten times the largest n that was measured."""
        if not self.low > 0:  # the interval of a perfectly flat line is no number
            return None
        log_n = math.log(self.constant / error) / self.exponent
        measured = math.log(self.smallest) <= log_n <= math.log(FARTHEST * self.largest)
        return math.exp(log_n) if measured else None


def fit(points: Sequence[tuple[float, float]], samples: int) -> PowerLaw:
    """The law through (n, error) points, errors in [0, 1]; one of 0 counts as half a sample.

    Raises ValueError for fewer than three points or a single n.
    """
    sizes = np.log([n for n, _ in points])
    errors = np.log([max(error, 0.5 / samples) for _, error in points])
    if len(points) < 3 or np.ptp(sizes) == 0:
        raise ValueError(f"a law needs three points at two sizes, got {len(points)}")
    from scipy import stats  # takes a second

    line = stats.linregress(sizes, errors)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(points) - 2) * line.stderr
    exponent = -float(line.slope)
    numbers = [n for n, _ in points]
    return PowerLaw(
        exponent=exponent,
        low=exponent - float(reach),
        high=exponent + float(reach),
        constant=math.exp(line.intercept),
        smallest=min(numbers),
        largest=max(numbers),
    )
