"""What a study has not found: differences that may be chance, and how many seeds would say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from guard.artifacts import Damaged
from guard.robustness.measures import ROBUST
from guard.trial import TrialConfig
from tune.results.comparison import Comparison, Values, arms, gain, short_titles, versus
from tune.results.findings import Results
from tune.results.records import Record
from tune.results.statistics import MOST_SEEDS, Estimate, deciding_seeds
from tune.results.tables import Grid, all_together, gains_of, signed_percent

FORMULA = (
    "Seeds that would decide: the least n with (t(0.975) + t(0.8))² s²/n + r² ≤ Δ², Student's t of "
    "n − 1 degrees of freedom, s the standard deviation of the paired differences between seeds, r "
    "the test images' part of the interval. Then a difference like this one is clear in four of "
    "five such studies, if Δ and s are what they were here and the seeds' differences are normal; "
    "s of two or three seeds is rough, and so is n."
)


@dataclass(frozen=True, kw_only=True)
class Undecided:
    """A paired difference in robust accuracy that includes zero."""

    what: str
    found: Estimate

    @property
    def seeds(self) -> str:
        """How many would decide it, in words."""
        if self.found.num_distillations < 2:
            return "one seed does not say"
        needed = deciding_seeds(self.found)
        return str(needed) if needed else f"more than {MOST_SEEDS}, or more test images"

    @property
    def row(self) -> list[str]:
        count = self.found.num_distillations
        spread = f"{100 * self.found.distillation_std:.1f}" if count > 1 else ""
        return [self.what, signed_percent(self.found), spread, str(count), self.seeds]


def leader(results: Results) -> Comparison | None:
    """The configuration that a search chose, if it was compared; without a search the distilled one
    that is most robust on test images."""
    choice = results.choice
    if choice is not None:
        return results.comparison_of(choice)
    distilled = [c for c in results.comparisons if c.arm.config.distils]
    return max(distilled, key=lambda c: c.robust.mean, default=None)


def undecided(results: Results) -> list[Undecided]:
    """Arms that are not clearly other than their controls, then those within noise of the
    leader."""
    titles = short_titles(results.comparisons)
    named = list(zip(titles, results.comparisons, strict=True))
    found = [
        Undecided(what=f"{title} against its control", found=comparison.robust_gain)
        for title, comparison in named
        if comparison.robust_gain is not None and not comparison.robust_gain.is_clear
    ]
    first = leader(results)
    if first is None:
        return found
    name = titles[list(results.comparisons).index(first)]
    control = first.arm.config.unregularized()  # their difference is the gain
    for title, comparison in named:
        config = comparison.arm.config
        is_other = comparison is not first and config != control
        rest = versus(first, comparison) if is_other and alike(config, first.arm.config) else None
        if rest is not None and not rest.is_clear:
            found.append(Undecided(what=f"{name} against {title}", found=rest))
    return found


def alike(config: TrialConfig, other: TrialConfig) -> bool:
    """Whether both are judged on the same images under the same attacks."""
    seedless = (replace(own.evaluation, seed=0) for own in (config, other))
    return config.data == other.data and len(set(seedless)) == 1


def nearby(results: Results) -> list[Record]:
    """Trials of a search that are not clearly less robust than its choice, on the validation images
    that it chose by. Those whose verdicts are gone are left out."""
    choice = results.choice
    if choice is None:
        return []
    config, first = TrialConfig.from_dict(choice.config), right_on_validation(choice)
    found = []
    for record in results.records:
        is_other = record.is_search and record.status == "complete" and record is not choice
        if is_other and alike(TrialConfig.from_dict(record.config), config):
            theirs = right_on_validation(record)
            rest = gain(first, theirs) if first and theirs else None
            if rest is not None and rest.low <= 0:
                found.append(record)
    return found


def right_on_validation(record: Record) -> Values:
    """0 or 1 of each validation image, (N,), under every attack, as of one seed, whichever it was;
    nothing where they cannot be read."""
    (own,) = arms([record])
    try:
        (values,) = own.values("validation")[ROBUST].values()
    except (Damaged, KeyError):
        return {}
    return {(0, 0): values}


MOST_NAMED = 12


def nearby_in_words(results: Results) -> str:
    """Which trials those are, in a sentence; "" where nothing was chosen."""
    choice, numbers = results.choice, [str(record.trial) for record in nearby(results)]
    if choice is None:
        return ""
    basis = "by the validation images that it was chosen on, one seed each"
    if not numbers:
        return f"No other trial of the search is within noise of its choice, {basis}."
    others = len(numbers) - MOST_NAMED
    rest = f" and {others} more" if others > 0 else ""
    names = ", ".join(numbers[:MOST_NAMED]) + rest
    return f"Within noise of the search's choice, trial {choice.trial}, {basis}: {names}."


COLUMNS = ("difference", "Δ robust", "s", "seeds", "seeds that would decide")


def undecided_grid(results: Results) -> Grid:
    """A row for each undecided difference, in points."""
    return COLUMNS, [one.row for one in undecided(results)]


def in_words(results: Results, rows: Sequence[Sequence[str]]) -> str:
    """What stands above the table: how it is read, or that there is none."""
    compared = [c for c in results.comparisons if c.robust_gain is not None]
    gains = gains_of(results.comparisons)
    if not rows:
        told = "Every compared difference in robust accuracy is clear by itself."
        parts = [told + all_together(gains)] if compared else []
    else:
        parts = ["In points of robust accuracy, 95 % intervals.", FORMULA]
    return " ".join(filter(None, [nearby_in_words(results), *parts]))
