"""Accuracies over seeds and test samples, with intervals that say what is not known.

A run has one (distillation seed, student seed); its verdicts are per test sample, so two
configurations run on the same seeds and samples are compared pair by pair.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SeedPair = tuple[int, int]
"""(distillation seed, student seed)."""
Floats = NDArray[np.float64]

CONFIDENCE, POWER = 0.95, 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean accuracy in [0, 1], or a difference of two in [-1, 1]."""

    mean: float
    low: float
    high: float
    """Ends of the 95 % interval over seeds and test samples; with one seed, over samples alone."""
    distillation_std: float
    """Standard deviation between distillation seeds, of their means over student seeds; nan with
    one seed."""
    student_std: float
    """Standard deviation between the students of one distilled set, pooled; nan with one each."""
    num_distillations: int
    num_students: int
    """All students, of all distilled sets."""
    num_samples: int
    p: float = math.nan
    """Of a difference: the largest 1 − confidence at which its interval leaves zero out, that is
    how often chance alone would find as much; nan for an accuracy."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out: only then a difference has a winner."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        spread = "one seed" if self.num_distillations == 1 else f"± {self.distillation_std:.3f}"
        return f"{self.mean:.3f} {spread} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    runs: Mapping[SeedPair, Sequence[bool] | Floats],
    *,
    signed: bool = False,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean over runs and samples and its interval, of 95 % unless said otherwise: `interval`,
    and where no value differs from another, `exact_reach`.

    runs: values of each run on the same samples, (N,). signed: they are differences.

    Raises ValueError for no run, no sample, or runs on different numbers of samples.
    """
    by_seed: dict[int, list[Floats]] = defaultdict(list)
    for (distillation, _), values in sorted(runs.items()):
        by_seed[distillation].append(np.asarray(values, dtype=np.float64))
    lengths = {len(values) for students in by_seed.values() for values in students}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"runs must be on the same samples, got {sorted(lengths)} of them")
    matrix = np.stack([np.mean(students, axis=0) for students in by_seed.values()])
    low, high = interval(matrix, shares=not signed, confidence=confidence)
    if matrix.min() == matrix.max():
        reach = exact_reach(matrix.shape[1], confidence)
        low, high = matrix[0, 0] - reach, matrix[0, 0] + reach
    floor = -1.0 if signed else 0.0
    means = [[float(values.mean()) for values in students] for students in by_seed.values()]
    return Estimate(
        mean=float(matrix.mean()),
        low=max(float(low), floor),
        high=min(float(high), 1.0),
        distillation_std=float(matrix.mean(axis=1).std(ddof=1)) if len(matrix) > 1 else math.nan,
        student_std=pooled_std(means),
        num_distillations=len(matrix),
        num_students=len(runs),
        num_samples=matrix.shape[1],
        p=chance(matrix) if signed else math.nan,
    )


def difference(
    ours: Mapping[SeedPair, Sequence[bool] | Floats],
    theirs: Mapping[SeedPair, Sequence[bool] | Floats],
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean of ours − theirs, paired over runs and samples, and its interval. Raises ValueError
    if the runs are not the same seeds."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"different seeds: {sorted(ours)} and {sorted(theirs)}")
    pairs = {
        run: np.asarray(ours[run], dtype=np.float64) - np.asarray(theirs[run], dtype=np.float64)
        for run in ours
    }
    return estimate(pairs, signed=True, confidence=confidence)


def exact_reach(samples: int, confidence: float = CONFIDENCE) -> float:
    """How far from 0 or 1 a share of so many samples may be of which every one was alike: Clopper
    and Pearson's interval (1934). No variance says so: there is none."""
    return float(1 - ((1 - confidence) / 2) ** (1 / samples))


def chance(differences: Floats) -> float:
    """The largest 1 − confidence at which the interval of differences (seeds, samples) leaves zero
    out, to three digits; 1 where none does."""
    sure, unsure = 0.0, math.log(1e-12)

    def outside(log_p: float) -> bool:
        low, high = interval(differences, confidence=1 - math.exp(log_p))
        return bool(low > 0 or high < 0)

    if not outside(math.log(0.999)):
        return 1.0
    if outside(unsure):
        return math.exp(unsure)
    while sure - unsure > 1e-3:
        middle = (sure + unsure) / 2
        sure, unsure = (middle, unsure) if outside(middle) else (sure, middle)
    return math.exp(sure)


def holm(chances: Sequence[float]) -> list[bool]:
    """Which of a family of differences are clear together: with their `p`, so that chance alone
    calls any of them clear in at most one family of twenty (Holm 1979, "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6)."""
    order = sorted(range(len(chances)), key=lambda number: chances[number])
    found, clear = [False] * len(chances), True
    for rank, number in enumerate(order):
        clear = clear and chances[number] <= (1 - CONFIDENCE) / (len(chances) - rank)
        found[number] = clear
    return found


def interval(
    values: Floats, *, shares: bool = False, confidence: float = CONFIDENCE
) -> tuple[Floats, Floats]:
    """The ends of the interval for the mean of values (..., seeds, samples); each is (...).

    Seeds and samples are both drawn from something larger, each apart from the other. The seeds'
    part is Student's t for their means, with the seeds' degrees of freedom: three seeds are too few
    to estimate a variance and then trust it. The samples' part is Student's t for the samples'
    means. The squares of both are added, which covers at least 95 % whichever part dominates
    (Banerjee 1960, "Approximate confidence interval for linear functions of means of k populations
    when the population variances are not equal", Sankhya 22); the noise of (seed, sample) pairs is
    in both and counted once. Nothing is known of other seeds from one: its interval is over samples
    alone.

    shares: the values are in [0, 1]. The samples' part is then Wilson's score interval at their
    effective number, put together with the seeds' part as the distances from the mean are (Zou and
    Donner 2008, https://doi.org/10.1002/sim.3095), so that an accuracy of 1 on 50 images has a
    lower end of 0.925.

    `python -m studies.bench.intervals` simulates what it covers.
    """
    seeds, samples = values.shape[-2:]
    mean = values.mean(axis=(-2, -1), keepdims=True)
    rows = values.mean(axis=-1, keepdims=True) - mean
    columns = values.mean(axis=-2, keepdims=True) - mean
    noise = values - mean - rows - columns
    t_seeds, t_samples = (t_quantile(count - 1, (1 + confidence) / 2) for count in (seeds, samples))
    of_seeds = t_seeds**2 * variance(rows, seeds - 1) / seeds
    of_samples = t_samples**2 * variance(columns, samples - 1) / samples
    of_noise = t_samples**2 * variance(noise, (seeds - 1) * (samples - 1)) / (seeds * samples)
    further = np.maximum(of_seeds - of_noise, 0)
    centre = mean[..., 0, 0]
    below = above = np.sqrt(of_samples)
    if shares:
        below, above = score(centre, of_samples, t_samples**2 / samples)
    return centre - np.hypot(below, np.sqrt(further)), centre + np.hypot(above, np.sqrt(further))


def t_quantile(freedom: int, level: float = (1 + CONFIDENCE) / 2) -> float:
    """How many standard errors Student's t reaches; for nothing that varies, any number."""
    from scipy.special import stdtrit  # takes a fifth of a second, and plans need none

    return float(stdtrit(max(freedom, 1), level))


def deciding_seeds(found: Estimate) -> int | None:
    """The least number of seeds n with which a paired difference Δ like this one is clear with a
    probability of 80 %:

        (t(0.975) + t(0.8))² s²/n + r² <= Δ²

    with Student's t of n - 1 degrees of freedom, s the standard deviation of the differences
    between seeds, and r what test images alone add to the interval. The usual size of a paired
    sample (Julious 2004, https://doi.org/10.1002/sim.1783), which takes Δ and s to be what they
    were here, and the differences of seeds to be normal. None for more than a thousand, that is
    where the test images are too few, and for one seed, which says nothing of s.
    """
    count, s = found.num_distillations, found.distillation_std
    if count < 2:
        return None
    width = (found.high - found.low) / 2
    of_images = max(width**2 - t_quantile(count - 1) ** 2 * s**2 / count, 0.0)
    for seeds in range(2, MOST_SEEDS + 1):
        reach = t_quantile(seeds - 1) + t_quantile(seeds - 1, POWER)
        if reach**2 * s**2 / seeds + of_images <= found.mean**2:
            return seeds
    return None


def variance(deviations: Floats, freedom: int) -> Floats:
    """Of deviations (..., seeds, samples) that have so many degrees of freedom; 0 for none."""
    return np.asarray(np.square(deviations).sum(axis=(-2, -1)) / max(freedom, 1))


def score(share: Floats, square: Floats, fewest: float) -> tuple[Floats, Floats]:
    """How far Wilson's interval reaches below and above a share whose symmetric interval reaches
    the root of `square`.

    fewest: t² over the number of samples, which stands where a share of 0 or 1 has no variance.
    """
    spread = share * (1 - share)
    per = np.divide(square, spread, out=np.full_like(spread, fewest), where=spread > 0)
    middle = (share + per / 2) / (1 + per)
    half = np.sqrt(square + per**2 / 4) / (1 + per)
    return share - (middle - half), middle + half - share


def pooled_std(groups: list[list[float]]) -> float:
    """Standard deviation within groups; nan where each has one value."""
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return math.nan
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    return math.sqrt(squares / freedom)
