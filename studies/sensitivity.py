"""Which hyper-parameters matter in a finished sweep, and the maps of λ and h.

Reads the sweep in DIR/NAME, adds to its tables, figures, report and MLflow run, and runs no trial.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from matplotlib.figure import Figure
from rich.table import Table

from guard.errors import StudyError
from studies.design.about import About
from studies.driver import flags
from studies.driver.request import Request, settled
from studies.reporting.console import Terminal
from studies.reporting.figures import save_png
from studies.reporting.page import publish
from studies.reporting.searches import Importance, cannot_be_told, importances, robust, searched
from studies.reporting.series import BARRED, STEP, WEIGHT, Search
from studies.sweep import STORY
from tune.copies import brought
from tune.places import held
from tune.results.folder import StudyFolder, write_atomically
from tune.results.records import Record
from tune.results.rows import to_csv
from tune.results.tables import as_markdown
from tune.tracking.opening import open_store

COLUMNS = ("importance", "of 90 %", "rank correlation", "p")


def parser() -> argparse.ArgumentParser:
    parser = flags.command_parser("sensitivity", __doc__)
    flags.add_output_flags(parser)
    flags.add_tracking_flag(parser)
    parser.set_defaults(name="digits")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write tables, pictures and the report. Raises StudyError for a folder without a sweep."""
    request = settled(flags.parsed(parser(), argv))
    folder = request.folder
    if folder.objects is None and not folder.path.is_dir():
        raise no_sweep(folder)
    with held(folder.path), brought(folder):
        return examine(request, Terminal())


def no_sweep(folder: StudyFolder) -> StudyError:
    return StudyError(f"--name: {folder} holds no sweep; run python -m studies.sweep first")


def examine(request: Request, console: Terminal) -> int:
    """Of a sweep that nobody else has meanwhile. Raises StudyError, see `main`."""
    folder = request.folder
    study = searched(folder)
    if study is None:
        raise no_sweep(folder)
    found = importances(study)
    trials = study.get_trials(deepcopy=False)
    if not found:
        raise StudyError(
            f"--name: {folder.path} must have at least 4 regularized trials that differ, got "
            f"{len(trials)}"
        )
    store = open_store(request.tracking_uri, folder, request.options.tracking)
    rows = [
        {
            "field": name,
            "importance": own.share,
            "low": own.low,
            "high": own.high,
            **correlation(trials, name),
            "trials": len(trials),
        }
        for name, own in found.items()
    ]
    write_atomically(folder.path / "sensitivity.csv", to_csv(rows))
    write_atomically(folder.path / "sensitivity.md", markdown(rows))
    about = About.read(folder)
    search = Search.of(folder.records(), about.max_clean_drop)
    for name, figure in figures(search, found, len(trials)).items():
        save_png(figure, folder.path / f"{name}.png")
    console.print_table(as_table(rows))
    if cannot_be_told(len(trials)):
        console.warn(cannot_be_told(len(trials)))
    publish(console, STORY, folder, about, store, done=None)
    return 0


def correlation(trials: Sequence[optuna.trial.FrozenTrial], name: str) -> dict[str, float | None]:
    """Spearman's rank correlation of a numeric field with robust accuracy, its p-value; empty for a
    choice of names."""
    from scipy import stats

    values = [trial.params[name] for trial in trials]
    if any(isinstance(value, (str, bool)) for value in values):
        return {"rank_correlation": None, "p_value": None}
    found = stats.spearmanr(values, [robust(trial) for trial in trials])
    return {"rank_correlation": float(found.statistic), "p_value": float(found.pvalue)}


def figures(search: Search, found: Mapping[str, Importance], count: int) -> Mapping[str, Figure]:
    made = {"importance": importance_figure(found, count)}
    return made | ({"map": map_figure(search)} if search.maps() else {})


def importance_figure(found: Mapping[str, Importance], count: int) -> Figure:
    figure = Figure(figsize=(6.4, 1.2 + 0.35 * len(found)), dpi=150, layout="constrained")
    axes = figure.subplots()
    shares = [own.share for own in found.values()]
    below = [max(own.share - own.low, 0.0) for own in found.values()]
    above = [max(own.high - own.share, 0.0) for own in found.values()]
    axes.barh(
        list(found),
        shares,
        xerr=[below, above],
        color="C0",
        hatch="//",
        edgecolor="white",
        capsize=2,
    )
    axes.invert_yaxis()
    axes.set_xlabel("share of the variance of robust validation accuracy (fANOVA)")
    axes.set_title(f"{count} regularized trials; the middle 90 % over samples of them", fontsize=9)
    return figure


def map_figure(search: Search) -> Figure:
    """A map for each method and IPC: every complete trial at its λ and h, larger and darker where
    the student is more robust, with a bar where it must not be chosen; crosses where a trial was
    stopped early."""
    maps = search.maps()
    rows = -(-len(maps) // 2)
    figure = Figure(figsize=(7.2, 0.6 + 3.2 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, min(2, len(maps)), squeeze=False)
    places = [axes for row in grid for axes in row]
    every = [record.objectives[1] for records in maps.values() for record in records]
    for axes, (place, records) in zip(places, maps.items(), strict=False):
        values = [record.objectives[1] for record in records]
        points = axes.scatter(
            *at(records),
            c=values,
            s=[30 + 150 * value for value in values],
            cmap="viridis_r",
            vmin=min(every),
            vmax=max(every),
            edgecolors="black",
            linewidths=0.5,
        )
        for x, y, value in zip(*at(records), values, strict=True):
            axes.annotate(f"{value:.2f}", (x, y), (6, 6), textcoords="offset points", fontsize=7)
        axes.scatter(*at(search.barred_of(records)), marker="_", color="0.35", s=250, lw=2)
        axes.scatter(*at(search.ended_on(place)), marker="x", color="0.6", s=20)
        axes.set(xscale="log", yscale="log", xlabel="h (length of the step)", ylabel="λ")
        axes.set_title(f"{place[0]}, IPC {place[1]}: {len(records)} trials", fontsize=9)
    for axes in places[len(maps) :]:
        axes.set_axis_off()
    label = f"robust validation accuracy; with a bar: {BARRED}"
    figure.colorbar(points, ax=places, label=label)
    return figure


def at(records: Sequence[Record]) -> tuple[list[float], list[float]]:
    """h and λ of each."""
    return [own.params[STEP] for own in records], [own.params[WEIGHT] for own in records]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    return as_markdown((["field", *COLUMNS], [cells(row) for row in rows]))


def cells(row: Mapping[str, Any]) -> list[str]:
    def told(value: float | None) -> str:
        return "" if value is None else f"{value:.2g}"

    interval = f"[{row['low']:.2g}, {row['high']:.2g}]"
    rest = (told(row["rank_correlation"]), told(row["p_value"]))
    return [row["field"], told(row["importance"]), interval, *rest]


def as_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    count = rows[0]["trials"]
    title = f"What robust validation accuracy depends on (fANOVA, {count} regularized trials)"
    table = Table(title=title)
    table.add_column("field")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*cells(row))
    return table


if __name__ == "__main__":
    flags.run(main)
