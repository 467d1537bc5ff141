"""Comparisons as tables for people, in percent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from guard.robustness.measures import Measure
from tune.results import wording
from tune.results.comparison import Comparison, elsewhere, short_titles
from tune.results.folder import StudyFolder, write_atomically
from tune.results.rows import to_csv
from tune.results.statistics import CONFIDENCE, Estimate, holm

MARK = "†"
"""Of a difference that is clear for all of a table at once."""
Grid = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Titles of columns, and rows of as many cells."""


def as_markdown(grid: Grid) -> str:
    """The grid as a table of GitHub's Markdown, with a newline at its end."""
    columns, rows = grid
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(columns)}", *lines[1:]]) + "\n"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a table for people, in percent; a gain is bold where its interval leaves
    zero out. How it is read stands below it (`legend`)."""
    with_settings = any(comparison.arm.settings for comparison in comparisons)
    measured = shared_worst_cases(comparisons)
    family = holding(gains_of(comparisons))
    columns = ["method", "IPC", "regularizer", *(["settings"] if with_settings else []), "seeds"]
    columns += headings(measured)
    rows = [
        [
            wording.method(comparison.arm.config),
            str(comparison.arm.config.ipc) if comparison.arm.config.distils else "",
            comparison.arm.penalty,
            *([comparison.arm.settings] if with_settings else []),
            str(comparison.clean.num_distillations),
            *(percent(comparison.found[measure]) for measure in measured),
            *(emphasized(comparison.gains.get(measure), family) for measure in measured),
        ]
        for comparison in comparisons
    ]
    below = legend(comparisons)
    return as_markdown((columns, rows)) + (f"\n{below}\n" if below else "")


def legend(comparisons: Sequence[Comparison]) -> str:
    """How a table of comparisons is read: its intervals, what bold means and how often chance alone
    makes it so, and what holds where settings are not named; "" for nothing."""
    gains = gains_of(comparisons)
    reading = (
        f"Δ: paired difference to the unregularized control, {level(gains)}; bold where it is "
        f"clear: zero is outside. {by_chance(len(gains))}{all_together(gains)}"
    )
    return " ".join(filter(None, [reading if gains else "", elsewhere(comparisons)]))


def gains_of(comparisons: Sequence[Comparison]) -> list[Estimate]:
    """The differences that stand in a table (`shared_worst_cases`)."""
    measured = shared_worst_cases(comparisons)
    return [
        comparison.gains[measure]
        for comparison in comparisons
        for measure in measured
        if measure in comparison.gains
    ]


def holding(gains: Sequence[Estimate]) -> Collection[Estimate]:
    """Those of a table's differences that are clear when all are taken together (`holm`)."""
    clear = holm([gain.p for gain in gains])
    return {gain for gain, holds in zip(gains, clear, strict=True) if holds}


def all_together(gains: Sequence[Estimate]) -> str:
    """How many of a table's differences are clear for all of them at once, as a sentence after a
    space; "" for one alone."""
    if len(gains) < 2:
        return ""
    count = len(holding(gains))
    left = f"{count} of them, marked {MARK}, stay clear" if count else "none of them stays clear"
    return f" Taken together (Holm, 5 % for all {len(gains)} at once), {left}."


def level(found: Collection[Estimate]) -> str:
    """What the intervals of some estimates are, for a caption."""
    seeds = {estimate.num_distillations for estimate in found}
    if seeds == {1}:
        return "95 % interval over test images alone: one seed says nothing of others"
    alone = ", where there is one seed over test images alone" if 1 in seeds else ""
    return f"95 % interval over seeds and test images{alone}"


def by_chance(count: int) -> str:
    """How many of so many differences are called clear where none is real, as a sentence."""
    share = "Chance alone calls up to one difference in twenty clear"
    expected = (1 - CONFIDENCE) * count
    return f"{share}, about {expected:.0f} of these {count}." if expected >= 0.5 else f"{share}."


def headings(measured: Sequence[Measure]) -> list[str]:
    """Titles of the columns of accuracies and of gains."""
    titles = [measure.heading for measure in measured]
    return [*titles, *(f"Δ {text}" for text in titles)]


def shared_worst_cases(comparisons: Sequence[Comparison]) -> list[Measure]:
    """Clean, and the worst case at each radius that every arm was attacked at."""
    every = (measure for comparison in comparisons for measure in comparison.worst_cases)
    return in_all(comparisons, every)


def in_all(comparisons: Sequence[Comparison], measures: Iterable[Measure]) -> list[Measure]:
    """The measures that every arm has, each once."""
    return [m for m in dict.fromkeys(measures) if all(m in c.found for c in comparisons)]


def shared_attacks(comparisons: Sequence[Comparison]) -> list[Measure]:
    """What every arm was measured under, attack by attack, between clean and the worst case; empty
    where some ran them as a cascade."""
    if not all(comparison.attacks for comparison in comparisons):
        return []
    return in_all(comparisons, (m for comparison in comparisons for m in comparison.attacks))


def attack_grid(comparisons: Sequence[Comparison]) -> Grid | None:
    """Accuracy under each attack alone, in percent; None where the attacks ran as a cascade."""
    shared = shared_attacks(comparisons)
    if not shared:
        return None
    columns = ["configuration", *(measure.heading for measure in shared)]
    rows = [
        [title, *(percent(comparison.found[measure]) for measure in shared)]
        for title, comparison in zip(short_titles(comparisons), comparisons, strict=True)
    ]
    return columns, rows


def penalty_grid(comparisons: Sequence[Comparison]) -> Grid | None:
    """Methods by penalties, each cell "clean, robust" in percent, the robust one bold where it is
    clearly above its control's. None for less than two rows or three penalties, or a grid with more
    than half of its cells empty."""
    cells: dict[str, dict[str, str]] = {}
    for comparison in comparisons:
        arm, gain = comparison.arm, comparison.robust_gain
        robust = percent(comparison.robust)
        if gain is not None and gain.is_clear and gain.mean > 0:
            robust = f"**{robust}**"
        row = cells.setdefault(wording.joined(arm.place, arm.settings), {})
        row[arm.penalty] = f"{percent(comparison.clean)}, {robust}"
    penalties = list(dict.fromkeys(comparison.arm.penalty for comparison in comparisons))
    if len(cells) < 2 or len(penalties) < 3 or 2 * len(comparisons) < len(cells) * len(penalties):
        return None
    rows = [[title, *(row.get(name, "") for name in penalties)] for title, row in cells.items()]
    return ["clean, robust", *penalties], rows


def write_comparisons(folder: StudyFolder, comparisons: Sequence[Comparison]) -> None:
    """comparison.csv and comparison.md; attacks.md where each attack has a number of its own,
    penalties.md for a grid of methods and penalties. Nothing for none."""
    if not comparisons:
        return
    rows = [comparison.row() for comparison in comparisons]
    write_atomically(folder.path / "comparison.csv", to_csv(rows))
    write_atomically(folder.path / "comparison.md", markdown(comparisons))
    grids = {"attacks.md": attack_grid(comparisons), "penalties.md": penalty_grid(comparisons)}
    for name, grid in grids.items():
        if grid is not None:
            write_atomically(folder.path / name, as_markdown(grid))


def percent(found: Estimate) -> str:
    """The mean ± the deviation between distillation seeds."""
    spread = f" ± {100 * found.distillation_std:.1f}" if found.num_distillations > 1 else ""
    return f"{100 * found.mean:.1f}{spread}"


def signed_percent(found: Estimate | None) -> str:
    """The mean and its 95 % interval."""
    if found is None:
        return ""
    mean = f"{100 * found.mean:+.1f}"
    ends = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{mean} {ends}"


def verdict(gain: Estimate) -> str:
    """What a difference in robust accuracy says: its sign in words, or that it may be chance."""
    if not gain.is_clear:
        return "no clear difference"
    return "more robust" if gain.mean > 0 else "less robust"


def emphasized(found: Estimate | None, family: Collection[Estimate] = ()) -> str:
    """`signed_percent`, its mean bold where the interval leaves zero out, and marked where it is
    one of the `family` that does so for a whole table (`holding`)."""
    text = signed_percent(found)
    if found is None or not found.is_clear:
        return text
    mean, ends = text.split(" ", 1)
    return f"**{mean}**{marked(found, family)} {ends}"


def marked(found: Estimate | None, family: Collection[Estimate]) -> str:
    """A mark for one of the `family`, else nothing."""
    return MARK if found is not None and found in family else ""
