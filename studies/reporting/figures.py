"""Pictures of a study, readable in print and without colour."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from guard.config import radius_text
from guard.robustness.measures import CLEAN, ROBUST
from guard.trial import TrialConfig
from studies.reporting.series import BARRED, Search, points
from tune.results import wording
from tune.results.comparison import Comparison, short_titles
from tune.results.folder import write_atomically
from tune.results.records import Record
from tune.results.statistics import Estimate
from tune.results.tables import shared_attacks
from tune.results.wording import joined

MARKERS = "os^Dv<>P*X"
"""One for each method and IPC."""
NUM_COLORS = 10
"""Of matplotlib's usual ones."""


def pareto_figure(
    search: Search, best: Record | None, confirmed: Sequence[Comparison] = ()
) -> Figure:
    """Every complete trial by clean and robust validation accuracy: filled markers are
    regularized, hollow ones are the unregularized baselines; the line is the Pareto front.
    best: the chosen one; confirmed: with 95 % intervals, on test images."""
    figure = Figure(figsize=(6.4, 5.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    front = points(search.front)
    axes.step(*front, where="post", color="0.6", lw=1, label="Pareto front", zorder=1)
    draw_clouds(axes, search)
    if best is not None:
        axes.annotate(
            f"chosen (trial {best.trial})",
            best.objectives,
            xytext=(-40, -6),
            textcoords="offset points",
            ha="right",
            arrowprops={"arrowstyle": "->"},
        )
    draw_confirmed(axes, confirmed)
    if search.complete:
        axes.set_title(search_title(search), fontsize=10)
    axes.set_xlabel("clean accuracy (share of images)")
    axes.set_ylabel("robust accuracy (share of images)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure


def search_title(search: Search) -> str:
    config = TrialConfig.from_dict(search.complete[0].config)
    own = config.evaluation
    return (
        f"{config.data.name}: {len(search.complete)} students on {search.num_samples} validation "
        f"images\n{', '.join(own.attacks)}, {own.norm} eps {radius_text(own.eps)}"
    )


def draw_clouds(axes: Axes, search: Search) -> None:
    """The trials of each method and IPC, a bar over each that must not be chosen, and a cross over
    each with a flag."""
    for cloud in search.clouds():
        round_number, place = divmod(cloud.look, NUM_COLORS)
        color = f"C{place}"
        axes.scatter(
            *points(cloud.records),
            marker=MARKERS[(place + round_number) % len(MARKERS)],
            s=70 if cloud.control else 36,
            facecolors="none" if cloud.control else color,
            edgecolors=color,
            linewidths=1.6,
            label=literal(cloud.label),
            zorder=2,
        )
    if search.barred:
        barred = points(search.barred)
        axes.scatter(*barred, marker="_", s=160, color="0.35", lw=2, label=BARRED, zorder=3)
    if search.flagged:
        label = "flagged"
        flagged = points(search.flagged)
        axes.scatter(*flagged, marker="x", s=90, color="black", label=label, zorder=3)


def draw_confirmed(axes: Axes, confirmed: Sequence[Comparison]) -> None:
    regularized = itertools.cycle("*pXD")
    for comparison in confirmed:
        place = [comparison.clean.mean], [comparison.robust.mean]
        axes.errorbar(
            *place,
            xerr=reaches([comparison.clean]),
            yerr=reaches([comparison.robust]),
            fmt="none",
            color="black",
            capsize=3,
            lw=1,
        )
        axes.scatter(
            *place,
            marker="P" if comparison.is_control else next(regularized),
            s=90,
            facecolors="white",
            edgecolors="black",
            label=literal(f"confirmed on test: {comparison.arm.title}"),
            zorder=4,
        )


def arms_figure(comparisons: Sequence[Comparison], title: str) -> Figure:
    """Clean and robust accuracy of every arm with their 95 % intervals, one arm a row."""
    height = 1.3 + 0.32 * len(comparisons)
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    looks = {CLEAN: ("o", "C0", "none"), ROBUST: ("s", "C1", "C1")}
    for measure, (marker, color, face) in looks.items():
        found = [comparison.found[measure] for comparison in comparisons]
        axes.errorbar(
            [estimate.mean for estimate in found],
            range(len(found)),
            xerr=reaches(found),
            fmt=marker,
            color=color,
            markerfacecolor=face,
            capsize=2,
            lw=1,
            label=measure.heading,
        )
    for row, comparison in enumerate(comparisons):
        if comparison.is_control:
            axes.axhspan(row - 0.5, row + 0.5, color="0.93", zorder=0)
    axes.set_yticks(range(len(comparisons)), titles_of(comparisons), fontsize=8)
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy, 95 % interval; grey: unregularized")
    axes.grid(axis="x", alpha=0.3)
    entitle(figure, title)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


def eps_figure(comparisons: Sequence[Comparison], title: str) -> Figure | None:
    """Robust accuracy against the radius; None where one radius was measured, or not the same ones
    of every arm."""
    own = comparisons[0].arm.config.evaluation
    others = (comparison.arm.config.evaluation.radii for comparison in comparisons)
    if len(own.radii) < 2 or any(radii != own.radii for radii in others):
        return None
    figure, axes = lines_figure(title)
    for number, (name, comparison) in enumerate(
        zip(titles_of(comparisons), comparisons, strict=True)
    ):
        found = [comparison.clean, *(comparison.at(eps) for eps in own.radii)]
        style = "--" if comparison.is_control else "-"
        draw_line(axes, [0, *own.radii], found, number, style, name)
    axes.set_xticks([0, *own.radii], ["0", *map(radius_text, own.radii)])
    axes.set_xlabel(f"radius eps ({own.norm}, pixels in [0, 1])")
    frame_lines(figure, axes)
    return figure


def ipc_figure(comparisons: Sequence[Comparison], title: str) -> Figure:
    """Robust accuracy against images per class, a line for what else is the same; without what
    distils nothing."""
    figure, axes = lines_figure(title)
    lines: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        arm = comparison.arm
        if arm.config.distils:
            line = literal(joined(wording.method(arm.config), arm.penalty, arm.settings))
            lines.setdefault(line, []).append(comparison)
    for number, (label, members) in enumerate(lines.items()):
        members.sort(key=lambda comparison: comparison.arm.config.ipc)
        found = [comparison.robust for comparison in members]
        style = "--" if members[0].is_control else "-"
        ipcs = [comparison.arm.config.ipc for comparison in members]
        draw_line(axes, ipcs, found, number, style, label)
    axes.set_xscale("log")
    axes.set_xlabel("images per class")
    axes.set_ylabel("robust accuracy (share of images), 95 % interval")
    frame_lines(figure, axes)
    return figure


def attacks_figure(comparisons: Sequence[Comparison], title: str) -> Figure:
    """Accuracy of every arm under each attack alone, strongest attacks on the right."""
    columns = shared_attacks(comparisons)
    height = 1.6 + 0.27 * len(comparisons)
    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained")
    axes = figure.subplots()
    values = [[100 * c.found[measure].mean for measure in columns] for c in comparisons]
    axes.imshow(values, cmap="Blues", vmin=0, vmax=130, aspect="auto")
    for row, numbers in enumerate(values):
        for column, number in enumerate(numbers):
            axes.text(column, row, f"{number:.1f}", ha="center", va="center", fontsize=7)
    titles = [*(measure.heading for measure in columns[:-1]), "all attacks"]
    axes.set_xticks(range(len(columns)), titles, fontsize=8, rotation=30, ha="right")
    axes.set_yticks(range(len(values)), titles_of(comparisons), fontsize=7)
    entitle(figure, f"{title}; accuracy in %, mean over seeds")
    return figure


def titles_of(comparisons: Sequence[Comparison]) -> list[str]:
    return [literal(title) for title in short_titles(comparisons)]


def literal(text: str) -> str:
    """The text, as a label in which $ begins no formula: names of files have it."""
    return text.replace("$", r"\$")


def entitle(figure: Figure, title: str) -> None:
    """The title over the whole figure, in as few lines as fit, of about one length."""
    longest = int(13 * figure.get_size_inches()[0])
    lines = textwrap.wrap(title, longest)
    even = next(n for n in range(1, longest + 1) if len(textwrap.wrap(title, n)) <= len(lines))
    figure.suptitle(literal(textwrap.fill(title, even)), fontsize=9)


def reaches(found: Sequence[Estimate]) -> list[list[float]]:
    """How far the intervals go below and above the means, as matplotlib wants it."""
    return [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]


def lines_figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel("accuracy (share of images), 95 % interval")
    axes.grid(alpha=0.3)
    entitle(figure, title)
    return figure, axes


def draw_line(
    axes: Axes,
    x: Sequence[float],
    found: Sequence[Estimate],
    number: int,
    style: str,
    label: str,
) -> None:
    errors = reaches(found)
    marker = MARKERS[number % len(MARKERS)]
    means = [estimate.mean for estimate in found]
    axes.errorbar(x, means, yerr=errors, fmt=f"{marker}{style}", capsize=2, lw=1, label=label)


def frame_lines(figure: Figure, axes: Axes) -> None:
    """From zero to the highest of what was drawn; the legend where it hides nothing."""
    axes.set_ylim(0, min(1, axes.get_ylim()[1]))
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)


def save_png(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())
