"""One self-contained HTML page of a study: question, answer, table, figures, commands.

    python -m studies.report DIR/NAME

rebuilds it, also while the study is running.
"""

from __future__ import annotations

import argparse
import base64
import io
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs
from rich.console import Console

from guard.errors import StudyError
from guard.flags import FLAGS
from guard.statistics import Estimate
from studies import cli
from studies.figures import save_png
from studies.identity import About
from studies.interactive import Plot, ipc_plot, pareto_plot, search_plots, timeline_plot
from studies.progress import describe
from studies.published import ATTACKS, beside, of_tables
from studies.study import Results, Story, Study, Table, conclusion
from tune.comparison import Comparison
from tune.folder import StudyFolder, write_atomically
from tune.records import Record
from tune.tables import percent, shared_attacks, signed_percent
from tune.timeline import read as read_timeline
from tune.tracking import PACKAGES, Tracker, git_commit

MAX_IMAGES = 8
INTERACTIVE = ("pareto",)
TRIAL_COLUMNS = ("trial", "configuration", "status", "clean", "robust", "seconds", "reason")


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    control: bool


@dataclass(frozen=True)
class Picture:
    html: str
    caption: str


@dataclass(frozen=True)
class Image:
    source: str
    """A data: address."""
    caption: str


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studies.report", description=__doc__)
    parser.add_argument("folder", metavar="DIR/NAME", help="a study's folder")
    return parser


def main(argv: Sequence[str]) -> int:
    from studies.catalogue import STORIES

    path = Path(parser().parse_args(argv).folder).absolute()
    folder = StudyFolder(path.parent, path.name)
    about = About.read(folder)
    if about.study not in STORIES:
        raise StudyError(f"{folder.path}: its about.json names no study, got {about.study!r}")
    page = write_report(STORIES[about.study], Results.read(folder), about)
    Console(highlight=False).print(f"report: {page}", soft_wrap=True)
    return 0


def write_report(story: Story, results: Results, about: About) -> Path:
    """DIR/NAME/report.html, from what there is of the study now."""
    loader = jinja2.PackageLoader("studies")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(**content(story, results, about))
    path = results.folder.path / "report.html"
    write_atomically(path, page)
    return path


def publish(
    console: Console, story: Story, folder: StudyFolder, about: About, tracking_uri: str | None
) -> None:
    """The figures and the report of a study that runs no trials, in its folder and in MLflow."""
    results = Results.read(folder)
    for name, figure in story.figures(results).items():
        save_png(figure, folder.path / f"{name}.png")
    page = write_report(story, results, about)
    uri = tracking_uri or folder.tracking_uri
    tracker = Tracker(folder, uri, about.note(folder))
    tracker.close(list(results.records), answer=conclusion(story, results))
    console.print(f"report: {page}", soft_wrap=True)
    for error in tracker.errors[:1]:
        console.print(f"MLflow: {error}", style="yellow")


def content(story: Story, results: Results, about: About) -> dict[str, Any]:
    """What the template shows."""
    folder, comparisons, records = results.folder, results.comparisons, results.records
    plots = interactive(results)
    columns, rows = result_table(comparisons)
    pictures = static(story, results)
    tables = [*attack_table(comparisons), *story.tables(results), *published_tables(story)]
    images = distilled_images(comparisons, records)
    flagged = [
        {
            "label": record.label,
            "name": describe(record),
            "signs": "; ".join(f"{name}: {FLAGS[name].meaning}" for name in record.flags),
        }
        for record in records
        if record.flags
    ]
    contents = [
        *([("result", "result")] if rows else []),
        *((table.anchor, table.title) for table in tables),
        *([("figures", "figures")] if pictures else []),
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
        "samples": comparisons[0].clean.num_samples if comparisons else 0,
        "columns": columns,
        "rows": rows,
        "tables": tables,
        "pictures": pictures,
        "plots": plots,
        "plotly_js": get_plotlyjs() if plots else "",
        "images": images,
        "flagged": flagged,
        "examined": sum("reliability/flags" in record.metrics for record in records),
        "trial_columns": TRIAL_COLUMNS,
        "trials": [trial_row(record) for record in records],
        "commands": [about.command, f"uv run python -m studies.report {folder.path}"],
        "made_with": made_with(),
    }


def state(records: Sequence[Record]) -> str:
    """How many runs ended in which way."""
    counts = {s: sum(r.status == s for r in records) for s in ("complete", "diverged", "failed")}
    seconds = sum(record.stage_seconds for record in records)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{ended}; {seconds / 60:.0f} minutes of computation" if ended else ""


def result_table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[Row]]:
    """The comparisons: accuracies and paired gains, a published figure where there is one."""
    if not comparisons:
        return [], []
    measured = comparisons[0].measured
    theirs = [beside(comparison.arm.config) for comparison in comparisons]
    columns = ["configuration", "seeds", *measured, *(f"Δ {name}" for name in measured)]
    columns += ["published (clean / AutoAttack)"] if any(theirs) else []
    rows = []
    for comparison, published in zip(comparisons, theirs, strict=True):
        cells = [Cell(comparison.arm.title), Cell(str(comparison.clean.num_distillations))]
        cells += [Cell(percent(comparison.found[name])) for name in measured]
        cells += [gain_cell(comparison.gains.get(name)) for name in measured]
        cells += [Cell(published)] if any(theirs) else []
        rows.append(Row(cells, comparison.is_control))
    return columns, rows


def gain_cell(gain: Estimate | None) -> Cell:
    return Cell(signed_percent(gain), gain is not None and gain.is_clear)


def attack_table(comparisons: Sequence[Comparison]) -> list[Table]:
    """Accuracy under each attack alone, where each saw every sample."""
    attacks = shared_attacks(comparisons)
    if not attacks:
        return []
    rows = [
        [comparison.arm.title, *(percent(comparison.found[name]) for name in attacks)]
        for comparison in comparisons
    ]
    caption = "Percent, mean ± deviation between seeds; robust: right under all of them."
    names = [name.removeprefix("robust/") for name in attacks]
    return [Table("attacks", "Attack by attack", caption, ["configuration", *names], rows)]


def published_tables(story: Story) -> list[Table]:
    """The tables that the study is after, with the figures that cannot be right marked."""
    found = of_tables(story.source)
    if not found:
        return []
    rows = [
        [f"{p.table}, {p.data}, IPC {p.ipc}, {p.method}", *(p.marked(name) for name in ATTACKS)]
        for p in found
    ]
    caption = (
        "As printed by Xue et al. (AAAI 2025): top-1 in percent, eps 1/255, single runs of a "
        "ResNet-18. (!) marks what cannot be: above clean accuracy, or AutoAttack above PGD-100."
    )
    return [Table("published", "What was published", caption, ["configuration", *ATTACKS], rows)]


def interactive(results: Results) -> list[Plot]:
    searched = [record for record in results.records if record.is_search]
    saved = sum(
        float(stage["seconds"])
        for record in results.records
        for stage in record.stages
        if not stage["built"]
    )
    timeline = timeline_plot(read_timeline(results.folder.path), saved)
    is_sweep = (results.folder.path / "optuna.db").is_file()
    overview = [pareto_plot(searched, results.comparisons), ipc_plot(searched)] if is_sweep else []
    found = [*overview, *search_plots(results.folder), timeline]
    return [plot for plot in found if plot is not None]


def static(story: Story, results: Results) -> list[Picture]:
    """The story's figures, but for those that the page has as interactive ones."""
    if isinstance(story, Study) and not results.comparisons:
        return []
    found = story.figures(results)
    return [
        Picture(svg(figure), f"Also in the study's folder: {name}.png")
        for name, figure in found.items()
        if name not in INTERACTIVE
    ]


def svg(figure: Figure) -> str:
    """The figure as SVG that can stand in a page; the same bytes each time."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def distilled_images(comparisons: Sequence[Comparison], records: Iterable[Record]) -> list[Image]:
    """The first seed's images of each arm; without arms, of the first records."""
    chosen = [c.arm.records[min(c.arm.records)] for c in comparisons] or list(records)
    images: list[Image] = []
    for record in chosen:
        path = Path(record.paths.get("distilled", "")) / "images.png"
        if "distilled" in record.paths and path.is_file() and len(images) < MAX_IMAGES:
            data = base64.b64encode(path.read_bytes()).decode()
            caption = f"trial {record.label}: {describe(record)}"
            images.append(Image(f"data:image/png;base64,{data}", caption))
    return images


def trial_row(record: Record) -> list[str]:
    clean, robust = (f"{v:.3f}" if v is not None else "" for v in record.accuracies)
    return [
        record.label,
        describe(record),
        record.status,
        clean,
        robust,
        f"{record.seconds:.1f}",
        record.reason,
    ]


def made_with() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    commit = git_commit(Path(__file__).parent)
    at = f" at commit {commit}" if commit else ""
    return f"Made with {packages}, Python {platform.python_version()} on {platform.machine()}{at}."


if __name__ == "__main__":
    cli.run(main)
