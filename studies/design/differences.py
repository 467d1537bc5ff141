"""Arms of a study held against one another, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from guard.robustness.measures import CLEAN, ROBUST
from studies.design.study import Table
from tune.results.comparison import Comparison, versus
from tune.results.statistics import Estimate
from tune.results.tables import all_together, by_chance, holding, level, marked, signed_percent

Pair = tuple[Sequence[str], Comparison, Comparison]
"""What stands before the figures of a row; an arm, and the one that it is held against."""
Row = tuple[Sequence[str], Sequence[Estimate | None]]
"""What stands before the figures; a difference in clean and in robust accuracy."""
MEASURED = (CLEAN, ROBUST)


def differences(
    anchor: str, title: str, columns: Sequence[str], pairs: Sequence[Pair], meaning: str = ""
) -> list[Table]:
    """The paired differences of each pair (`as_table`)."""
    rows = [
        (names, [versus(ours, theirs, measure) for measure in MEASURED])
        for names, ours, theirs in pairs
    ]
    return as_table(anchor, title, columns, rows, meaning)


def as_table(
    anchor: str, title: str, columns: Sequence[str], found: Sequence[Row], meaning: str = ""
) -> list[Table]:
    """One table, or none for no rows. columns: of what stands before the figures; meaning: of a
    difference, where the columns do not say it."""
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
