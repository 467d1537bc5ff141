"""One self-contained HTML page of a study: question, answer, tables, figures, commands."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from guard.trial import TrialConfig
from studies.design.about import About
from studies.design.study import Story, Table, conclusion, is_empty
from studies.reporting.console import Terminal
from studies.reporting.delivery import deliver
from studies.reporting.figures import save_png
from studies.reporting.packing import packed
from studies.reporting.sections import (
    distilled_images,
    flagged,
    grids,
    interactive,
    pictures,
    published_tables,
    result_table,
    state,
    trial_row,
    undecided_tables,
)
from tune.commit import lab_commit
from tune.results.cautions import after, before
from tune.results.findings import Results
from tune.results.folder import StudyFolder, write_atomically
from tune.results.tables import as_markdown, legend
from tune.tracking.provenance import package_versions
from tune.tracking.store import Store
from tune.tracking.tracker import Tracker

REPORT = ("uv", "run", "python", "-m", "studies.report")
MAX_TRIALS = 300
"""That the page lists one by one: more would take more than all else together."""
TRIAL_COLUMNS = ("trial", "configuration", "status", "clean", "robust", "seconds", "reason")


def write_report(story: Story, results: Results, about: About) -> Path:
    """DIR/NAME/report.html, its figures as PNG and the story's tables as Markdown, from what there
    is of the study now."""
    loader = jinja2.PackageLoader("studies.reporting")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    tables = story.tables(results)
    for table in tables:
        text = as_markdown((table.columns, table.rows))
        write_atomically(results.folder.path / f"{table.anchor}.md", text)
    shown = content(story, results, about, draw(story, results), tables)
    page = environment.get_template("report.html.j2").render(**shown)
    path = results.folder.path / "report.html"
    write_atomically(path, page)
    return path


def draw(story: Story, results: Results) -> Mapping[str, Figure]:
    """The story's figures, each also a PNG in the study's folder."""
    if is_empty(story, results):
        return {}
    drawn = story.figures(results)
    for name, figure in drawn.items():
        save_png(figure, results.folder.path / f"{name}.png")
    return drawn


def publish(
    console: Terminal,
    story: Story,
    folder: StudyFolder,
    about: About,
    store: Store,
    *,
    done: bool | None = True,
) -> None:
    """The report of a command that runs no trials, in the study's folder and in MLflow. done: see
    `deliver`."""
    results = Results.read(folder)
    page = write_report(story, results, about)
    console.print(f"report: {page}")
    tracker = Tracker(folder, store, about.note(folder), about.module, about.max_clean_drop)
    deliver(console, tracker, story, results, done=done)


def content(
    story: Story,
    results: Results,
    about: About,
    figures: Mapping[str, Figure],
    own: Sequence[Table],
) -> dict[str, Any]:
    """What the template shows. own: the story's tables."""
    folder, comparisons, records = results.folder, results.comparisons, results.records
    plots, scripts = packed(interactive(results))
    columns, rows = result_table(comparisons)
    drawn = pictures(figures)
    tables = [
        *grids(comparisons),
        *undecided_tables(results),
        *own,
        *published_tables(story),
    ]
    images = distilled_images(comparisons, records)
    contents = [
        *([("result", "result")] if rows else []),
        *((table.anchor, table.title) for table in tables),
        *([("figures", "figures")] if drawn else []),
        *((f"plot-{n}", plot.title) for n, plot in enumerate(plots, 1)),
        *([("images", "distilled images")] if images else []),
        *([("flags", "can it be believed?"), ("trials", "all trials")] if records else []),
        ("again", "run it again"),
    ]
    return {
        "title": f"{folder.name}: {story.question}",
        "question": story.question,
        "name": folder.name,
        "study": story.name,
        "source": story.source,
        "state": state(records),
        "about": results.caption,
        "answer": conclusion(story, results),
        "contents": contents,
        "legend": legend(comparisons),
        "samples": comparisons[0].clean.num_samples if comparisons else 0,
        "columns": columns,
        "rows": rows,
        "tables": tables,
        "pictures": drawn,
        "plots": plots,
        "scripts": scripts,
        "images": images,
        "flagged": flagged(records),
        "cautions": [*before(TrialConfig.from_dict(r.config) for r in records), *after(records)],
        "examined": sum("reliability/flags" in record.metrics for record in records),
        "trial_columns": TRIAL_COLUMNS,
        "trials": [trial_row(record) for record in records[:MAX_TRIALS]],
        "further_trials": max(len(records) - MAX_TRIALS, 0),
        "commands": [about.command, shlex.join([*REPORT, str(folder.path)])],
        "made_with": made_with(),
    }


def made_with() -> str:
    packages = ", ".join(f"{name} {number}" for name, number in package_versions().items())
    commit = lab_commit()
    at = f" at commit {commit}" if commit else ""
    return f"Made with {packages}, Python {platform.python_version()} on {platform.machine()}{at}."
