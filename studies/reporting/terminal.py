"""What a study says at its end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from guard.robustness.measures import CLEAN, ROBUST
from studies.design.about import STORAGES
from studies.reporting.console import Terminal
from studies.reporting.progress import signs, warning
from tune.results.comparison import Comparison, shared_place, short_titles
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.front import choose, control_of, pareto_front
from tune.results.records import Record
from tune.results.statistics import Estimate
from tune.results.tables import gains_of, holding, legend, marked, percent, signed_percent, verdict
from tune.tracking.identity import page_of
from tune.uris import is_database, redacted, scheme

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` is by default."""
COLUMNS = {
    "val clean": CLEAN.on("validation"),
    "val robust": ROBUST.on("validation"),
    "test clean": CLEAN.on("test"),
    "test robust": ROBUST.on("test"),
}
"""Metrics by title, of trials that were evaluated there."""


def print_summary(
    console: Terminal,
    records: list[Record],
    max_clean_drop: float,
    comparisons: list[Comparison],
    against_start: str = "",
) -> None:
    """The Pareto table, the chosen configuration against its control, and where things are."""
    front, best = pareto_front(records), choose(records, max_clean_drop)
    console.print()
    if not front:
        console.print("No trial is complete yet, so there is nothing to compare.")
        return
    controls = [record for record in records if record.control and record.status == "complete"]
    console.print_table(pareto_table(front, controls))
    counts = Counter(record.status for record in records)
    ended = [f"{counts[s]} {s}" for s in ("diverged", "stopped", "failed") if counts[s]]
    if ended:
        console.print(f"{len(records)} trials, of which {', '.join(ended)} (see results.csv)")
    if best is not None:
        print_choice(console, best, control_of(best, records), max_clean_drop)
    flagged = [record for record in records if record.flags]
    if flagged:
        console.print_table(flag_table(flagged))
    if comparisons:
        console.print_table(comparison_table(comparisons))
        print_verdicts(console, comparisons)
    if against_start:
        console.print(against_start)


def pareto_table(front: list[Record], controls: list[Record]) -> Table:
    table = Table(title="Pareto front on validation, and the unregularized baselines")
    table.add_column("trial", justify="right")
    table.add_column("configuration")
    others = [control for control in controls if control not in front]
    columns = {
        title: name
        for title, name in COLUMNS.items()
        if all(name in record.metrics for record in (*front, *others))
    }
    for title in columns:
        table.add_column(title, justify="right")
    for rows in (front, others):
        for record in rows:
            cells = [f"{record.metrics[name]:.3f}" for name in columns.values()]
            table.add_row(str(record.trial), record.title + warning(record), *cells)
        table.add_section()
    return table


def flag_table(records: list[Record]) -> Table:
    """Trials whose accuracies are not what they seem, and why."""
    table = Table(title="Accuracies that are not to be taken as they are")
    table.add_column("trial", justify="right")
    table.add_column("signs")
    for record in records:
        table.add_row(record.label, "\n".join(signs(record)))
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    found = comparisons[0].clean
    place = shared_place(comparisons)
    title = f"{found.num_samples} test images, mean ± deviation between seeds"
    title = f"{place}: {title}" if place else title
    table = Table(title=title, caption=legend(comparisons))
    for title in ("configuration", "seeds", "clean", "robust", "Δ clean", "Δ robust"):
        is_text = title == "configuration"
        narrow = not is_text and "Δ" not in title
        table.add_column(title, justify="left" if is_text else "right", no_wrap=narrow)
    family = holding(gains_of(comparisons))
    for name, comparison in zip(short_titles(comparisons), comparisons, strict=True):
        table.add_row(
            name,
            str(comparison.clean.num_distillations),
            percent(comparison.clean),
            percent(comparison.robust),
            gain_text(comparison.clean_gain, family),
            gain_text(comparison.robust_gain, family),
        )
    return table


def gain_text(gain: Estimate | None, family: Collection[Estimate]) -> Text:
    style = "bold" if gain is not None and gain.is_clear else ""
    return Text(signed_percent(gain) + marked(gain, family), style=style)


def print_verdicts(console: Terminal, comparisons: list[Comparison]) -> None:
    """One line for each regularized configuration: better, worse, or not clear."""
    for comparison in comparisons:
        if comparison.robust_gain is None:
            continue
        gain = comparison.robust_gain
        seeds = (
            f"{gain.num_distillations} seeds"
            if gain.num_distillations > 1
            else "one seed: test images alone"
        )
        console.print(
            f"{comparison.arm.title} against its unregularized baseline: {verdict(gain)} "
            f"({signed_percent(gain)} points, {seeds})",
        )


def print_choice(
    console: Terminal, best: Record, control: Record | None, max_clean_drop: float
) -> None:
    console.print(
        f"\nChosen on validation (most robust within {max_clean_drop:.3f} of its baseline's clean "
        f"accuracy): trial {best.trial}, {best.title}",
    )
    if best.control:
        console.print(
            "  That is the baseline itself: within that no regularized trial is more robust "
            "(search.max_clean_drop allows more)."
        )
    if control is None or best.control or "test/num_samples" not in best.metrics:
        return
    samples = int(best.metrics["test/num_samples"])
    for measure in (CLEAN, ROBUST):
        name = measure.on("test")
        new, old = best.metrics[name], control.metrics[name]
        console.print(
            f"  test {measure.heading:<7} {old:.3f} unregularized -> {new:.3f} chosen "
            f"({100 * (new - old):+.1f} points; {samples} images, one seed)",
        )


def print_results(console: Terminal, results: Results, tracking_uri: str) -> None:
    """Tables of a study whose trials are compared, and where things are."""
    records = results.records
    console.print()
    if results.comparisons:
        console.print_table(comparison_table(results.comparisons))
    ended = [f"{n} {status}" for status, n in Counter(r.status for r in records).items()]
    console.print(f"{len(records)} trials: {', '.join(ended)} (see results.csv)")
    flagged = [record for record in records if record.flags]
    if flagged:
        console.print_table(flag_table(flagged))
    print_places(console, results.folder, tracking_uri)


def print_cautions(console: Terminal, lines: Iterable[str]) -> None:
    """Words of caution, on stderr."""
    for line in lines:
        console.warn(f"beware: {line}")


def opened(server: str, folder: StudyFolder) -> str:
    """The address of the study's page in an MLflow UI."""
    page = page_of(folder)
    return f"{server.rstrip('/')}/{page}" if page else server


def stored(folder: StudyFolder) -> Path:
    """Where a search's Optuna storage is, in one of its forms."""
    places = [folder.path / name for name in STORAGES]
    return next((place for place in places if place.exists()), places[0])


def print_places(console: Terminal, folder: StudyFolder, tracking_uri: str) -> None:
    console.print("\nResults:")
    places = {
        "report": folder.path / "report.html",
        "every trial": folder.path / "results.csv",
        "Pareto front": folder.path / "pareto.csv",
        "its picture": folder.path / "pareto.png",
        "over seeds": folder.path / "comparison.md",
        "chosen config": folder.path / "best.json",
        "Optuna storage": stored(folder),
        "artifacts": folder.artifacts,
    }
    for what, place in places.items():
        if place.exists():
            console.print(f"  {what:<15} {place}")
    shown = redacted(tracking_uri)
    if is_database(tracking_uri):
        extra = ("--extra", "postgres") if scheme(tracking_uri) == "postgresql" else ()
        ui = ("uv", "run", *extra, "mlflow", "ui", "--backend-store-uri", shown)
        console.print(f"\nCompare the runs:   {shlex.join(ui)}")
        console.print(f"and open            {opened(LOCAL_UI, folder)}")
    else:
        console.print(f"  MLflow          {opened(shown, folder)}")
    if places["chosen config"].exists():
        again = ("uv", "run", "python", "-m", "studies.trial", str(places["chosen config"]))
        console.print(f"Run the choice again: {shlex.join(again)}")
