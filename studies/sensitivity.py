"""Which hyper-parameters matter in a finished sweep, and the map of λ and h.

Reads the sweep in DIR/NAME and starts nothing.
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
from studies.driver.request import settled
from studies.reporting.console import Terminal
from studies.reporting.figures import save_png
from studies.reporting.interactive import STEP, WEIGHT, importances, robust, searched
from studies.reporting.page import publish
from studies.sweep import STORY
from tune.results.folder import to_csv, write_atomically
from tune.results.tables import as_markdown
from tune.tracking.opening import open_store

COLUMNS = ("importance", "rank correlation", "p")


def parser() -> argparse.ArgumentParser:
    parser = flags.command_parser("sensitivity", __doc__)
    flags.add_output_flags(parser)
    flags.add_tracking_flag(parser)
    parser.set_defaults(name="digits")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write tables, pictures and the report. Raises StudyError for a folder without a sweep."""
    request, console = settled(flags.parsed(parser(), argv)), Terminal()
    folder = request.folder
    study = searched(folder)
    if study is None:
        raise StudyError(f"--name: {folder.path} holds no sweep; run python -m studies.sweep first")
    found = importances(study)
    trials = study.get_trials(deepcopy=False)
    if not found:
        raise StudyError(
            f"--name: {folder.path} must have at least 4 regularized trials that differ, got "
            f"{len(trials)}"
        )
    store = open_store(request.tracking_uri, folder, request.options.tracking)
    rows = [
        {"field": name, "importance": share, **correlation(trials, name), "trials": len(trials)}
        for name, share in found.items()
    ]
    write_atomically(folder.path / "sensitivity.csv", to_csv(rows))
    write_atomically(folder.path / "sensitivity.md", markdown(rows))
    for name, figure in figures(trials, found).items():
        save_png(figure, folder.path / f"{name}.png")
    console.print_table(as_table(rows))
    publish(console, STORY, folder, About.read(folder), store)
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


def figures(
    trials: Sequence[optuna.trial.FrozenTrial], found: Mapping[str, float]
) -> Mapping[str, Figure]:
    made = {"importance": importance_figure(found, len(trials))}
    placed = [trial for trial in trials if {WEIGHT, STEP} <= set(trial.params)]
    return made | ({"map": map_figure(placed)} if placed else {})


def importance_figure(found: Mapping[str, float], count: int) -> Figure:
    figure = Figure(figsize=(6.4, 1.2 + 0.35 * len(found)), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.barh(list(found), list(found.values()), color="C0", hatch="//", edgecolor="white")
    axes.invert_yaxis()
    axes.set_xlabel("share of the variance of robust validation accuracy (fANOVA)")
    axes.set_title(f"{count} regularized trials", fontsize=9)
    return figure


def map_figure(trials: Sequence[optuna.trial.FrozenTrial]) -> Figure:
    """Each trial at its λ and h, larger and darker where the student is more robust."""
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    values = [robust(trial) for trial in trials]
    points = axes.scatter(
        [trial.params[STEP] for trial in trials],
        [trial.params[WEIGHT] for trial in trials],
        c=values,
        s=[30 + 200 * value for value in values],
        cmap="viridis_r",
        edgecolors="black",
        linewidths=0.5,
    )
    for trial, value in zip(trials, values, strict=True):
        place = trial.params[STEP], trial.params[WEIGHT]
        axes.annotate(f"{value:.2f}", place, (6, 6), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("h (length of the step)")
    axes.set_ylabel("λ (weight of the penalty)")
    axes.set_title(f"{len(trials)} trials", fontsize=9)
    figure.colorbar(points, label="robust validation accuracy")
    return figure


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    return as_markdown((["field", *COLUMNS], [cells(row) for row in rows]))


def cells(row: Mapping[str, Any]) -> list[str]:
    numbers = (row["importance"], row["rank_correlation"], row["p_value"])
    return [row["field"], *(f"{value:.2g}" if value is not None else "" for value in numbers)]


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
