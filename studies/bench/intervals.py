"""Do the intervals hold? What they cover, call clear and cost, on simulated verdicts.

A network is right about a sample where the sample's ease, the seed's luck and noise add up to more
than nothing; all three are normal, so the truth is known. Two arms share the samples, most of their
ease and some of the luck of a seed, as two configurations of a study do.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm

from guard.errors import StudyError
from studies.driver import flags
from studies.reporting.console import Terminal
from tune.results.statistics import Floats, interval
from tune.results.tables import as_markdown

Normals = NDArray[np.float32]

SEEDS, SAMPLES = (1, 2, 3, 5, 10), (100, 360, 1000, 10000)
SAME_EASE, SAME_LUCK = 0.8, 0.3
"""Share of a sample's ease and of a seed's luck that two arms have in common."""
REPEATS, CELLS = 2000, 10_000_000
"""Studies simulated of each kind, fewer where they would take more verdicts than that an arm."""
AT_ONCE = 1_000_000
"""Verdicts held in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class Regime:
    """What makes verdicts differ."""

    name: str
    accuracy: float
    """Of all arms but the better one."""
    gain: float
    """Accuracy that the better one has more."""
    luck: float
    """Standard deviation of accuracy between seeds, half of it between students."""
    ease: float = 0.6
    """Share of the variance of one verdict that a sample brings along for every network."""
    students: int = 1
    """Of each distilled set."""


REGIMES = (
    Regime(name="samples alone", accuracy=0.5, gain=0.1, luck=0),
    Regime(name="mixed", accuracy=0.6, gain=0.05, luck=0.01),
    Regime(name="three students each", accuracy=0.6, gain=0.05, luck=0.02, students=3),
    Regime(name="seeds by 3 points", accuracy=0.3, gain=0.3, luck=0.03),
    Regime(name="seeds by 6 points", accuracy=0.3, gain=0.3, luck=0.06),
    Regime(name="nearly all right", accuracy=0.98, gain=0.01, luck=0.004),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Shares of simulated studies, and widths as multiples of the narrowest interval that would
    hold, that of one who knows the variance."""

    regime: str
    seeds: int
    samples: int
    repeats: int
    accuracy_covered: float
    accuracy_width: float
    gain_covered: float
    """The interval of a gain holds it."""
    clear: float
    """The interval of the difference of two equal arms leaves zero out."""
    difference_width: float

    def error(self, share: float) -> float:
        """Standard error of one of the shares."""
        return math.sqrt(share * (1 - share) / self.repeats)


def mixed(share: float, common: Normals, own: Normals) -> Normals:
    """Standard normal again, with that share of the variance from what is common."""
    return np.float32(math.sqrt(share)) * common + np.float32(math.sqrt(1 - share)) * own


def verdicts(
    regime: Regime, accuracies: Sequence[float], shape: tuple[int, int, int], seed: int
) -> list[Floats]:
    """Of one arm for each accuracy: shares of the students that are right, (studies, seeds,
    samples), float64."""
    studies, seeds, samples = shape
    draws = np.random.default_rng([seed, seeds, samples, *regime.name.encode()])

    def normal(*shape: int) -> Normals:
        return draws.standard_normal((studies, *shape), dtype=np.float32)

    ease, luck = normal(1, 1, samples), normal(seeds, 1, 1)
    arms = []
    for accuracy in accuracies:
        own_ease = mixed(SAME_EASE, ease, normal(1, 1, samples))
        own_luck = mixed(SAME_LUCK, luck, normal(seeds, 1, 1))
        of_student = mixed(0.5, own_luck, normal(seeds, regime.students, 1))
        of_sample = mixed(regime.ease, own_ease, normal(seeds, regime.students, samples))
        at = float(ndtri(accuracy))
        spread = regime.luck / norm.pdf(at)
        right = of_sample + spread * of_student > -at * math.hypot(1, spread)
        arms.append(right.mean(axis=2, dtype=np.float64))
    return arms


def measure(regime: Regime, seeds: int, samples: int, repeats: int = REPEATS) -> Found:
    """What the intervals do in that regime, of so many studies."""
    verdicts_a_study = seeds * regime.students * samples
    repeats = min(repeats, max(CELLS // verdicts_a_study, 1))
    chunk = max(AT_ONCE // verdicts_a_study, 1)
    p, gain = regime.accuracy, regime.gain
    of_accuracy, of_gain, of_nothing = [], [], []
    for start in range(0, repeats, chunk):
        shape = (min(chunk, repeats - start), seeds, samples)
        one, other, better = verdicts(regime, (p, p, p + gain), shape, start)
        of_accuracy.append(tried(one, p, shares=True))
        of_gain.append(tried(better - one, gain))
        of_nothing.append(tried(other - one, 0.0))
    accuracy, with_gain, with_none = map(np.concatenate, (of_accuracy, of_gain, of_nothing))
    return Found(
        regime=regime.name,
        seeds=seeds,
        samples=samples,
        repeats=repeats,
        accuracy_covered=float(accuracy[:, 0].mean()),
        accuracy_width=relative_width(accuracy),
        gain_covered=float(with_gain[:, 0].mean()),
        clear=1 - float(with_none[:, 0].mean()),
        difference_width=relative_width(with_none),
    )


def tried(values: Floats, truth: float, *, shares: bool = False) -> Floats:
    """Of each study whether its interval holds the truth, how wide it is, and its mean."""
    low, high = interval(values, shares=shares)
    held = (low <= truth) & (truth <= high)
    return np.stack([held, high - low, values.mean(axis=(1, 2))], axis=1)


def relative_width(found: Floats) -> float:
    """The mean width over that of an interval that knows the variance."""
    return float(found[:, 1].mean() / (2 * ndtri(0.975) * found[:, 2].std()))


def every(repeats: int) -> Iterator[tuple[str, Found]]:
    """Number of seeds in words, and what was found. One seed twice: for the accuracy of its own
    network, which is what its interval is for, and for that of all seeds."""
    for seeds in SEEDS:
        for samples in SAMPLES:
            for regime in REGIMES:
                if seeds == 1:
                    yield "1, its own", measure(replace(regime, luck=0), seeds, samples, repeats)
                yield str(seeds), measure(regime, seeds, samples, repeats)


def detailed(found: Sequence[tuple[str, Found]]) -> str:
    columns = ["seeds", "samples", "regime", "accuracy covered", "width", "gain covered"]
    rows = [
        [
            seeds,
            str(f.samples),
            f.regime,
            percent(f.accuracy_covered, f.error(f.accuracy_covered)),
            f"{f.accuracy_width:.2f}",
            percent(f.gain_covered, f.error(f.gain_covered)),
            percent(f.clear, f.error(f.clear)),
            f"{f.difference_width:.2f}",
        ]
        for seeds, f in found
    ]
    return as_markdown(([*columns, "nothing called clear", "width"], rows))


def summary(found: Sequence[tuple[str, Found]]) -> str:
    """By number of seeds: the mean over all sizes and regimes, in brackets the worst of them."""
    rows = []
    for seeds in dict.fromkeys(seeds for seeds, _ in found):
        own = [f for label, f in found if label == seeds]
        rows.append(
            [
                seeds,
                and_worst([f.accuracy_covered for f in own], min),
                and_worst([f.gain_covered for f in own], min),
                and_worst([f.clear for f in own], max),
                f"{np.mean([f.accuracy_width for f in own]):.2f}",
                f"{np.mean([f.difference_width for f in own]):.2f}",
            ]
        )
    columns = ["seeds", "accuracy covered", "gain covered", "nothing called clear"]
    return as_markdown(([*columns, "width (accuracy)", "width (difference)"], rows))


def percent(share: float, error: float) -> str:
    return f"{100 * share:.1f} ± {100 * error:.1f}"


def and_worst(shares: Sequence[float], worst: Callable[[Sequence[float]], float]) -> str:
    return f"{100 * np.mean(shares):.1f} ({100 * worst(shares):.1f})"


def main(argv: Sequence[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m studies.bench.intervals", description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, metavar="N", help=f"default: {REPEATS}"
    )
    repeats = flags.parsed(parser, argv).repeats
    if repeats < 2:
        raise StudyError(f"--repeats: must be at least 2, got {repeats}")
    console = Terminal()
    found = list(every(repeats))
    for table in (detailed(found), summary(found)):
        console.print(table)
    return 0


if __name__ == "__main__":
    flags.run(main)
