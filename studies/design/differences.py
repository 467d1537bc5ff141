"""Arms of a study held against one another, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from guard.robustness.measures import CLEAN, ROBUST
from studies.design.study import Table
from tune.results.comparison import Comparison, versus
from tune.results.tables import all_together, by_chance, holding, level, marked, signed_percent

Pair = tuple[Sequence[str], Comparison, Comparison]
"""What stands before the figures of a row; an arm, and the one that it is held against."""


def differences(
    anchor: str, title: str, columns: Sequence[str], pairs: Sequence[Pair], meaning: str = ""
) -> list[Table]:
    """The paired differences of each pair, none for no pairs. columns: of what stands before the
    figures; meaning: of a difference, where the columns do not say it."""
    found = [
        (names, [versus(ours, theirs, measure) for measure in (CLEAN, ROBUST)])
        for names, ours, theirs in pairs
    ]
    if not found:
        return []
    every = [gain for _, gains in found for gain in gains if gain is not None]
    family = holding(every)
    reading = f"Paired differences in points, {level(every)}{meaning}. "
    caption = reading + by_chance(len(every)) + all_together(every)
    return [
        Table(
            anchor=anchor,
            title=title,
            caption=caption,
            columns=[*columns, "Δ clean", "Δ robust"],
            rows=[
                [*names, *(signed_percent(gain) + marked(gain, family) for gain in gains)]
                for names, gains in found
            ],
        )
    ]
