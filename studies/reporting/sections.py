"""What a report's page shows, part by part."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import PIL.Image
from matplotlib.figure import Figure

from studies.design.study import Story, Table
from studies.reporting.interactive import Plot, ipc_plot, pareto_plot, timeline_plot
from studies.reporting.progress import signs
from studies.reporting.published import ATTACKS, beside, of_tables
from studies.reporting.searches import cannot_be_told, search_plots
from studies.reporting.series import Search
from tune import storage
from tune.results.comparison import Comparison, short_titles
from tune.results.findings import Results
from tune.results.records import STATUSES, Record
from tune.results.statistics import Estimate
from tune.results.tables import (
    attack_grid,
    gains_of,
    headings,
    holding,
    marked,
    penalty_grid,
    percent,
    shared_worst_cases,
    signed_percent,
)
from tune.results.undecided import in_words, undecided_grid
from tune.timeline import read as read_timeline

MAX_IMAGES, IMAGE_BYTES = 8, 40_000
"""Of distilled sets, and what they may take together."""
SVG_BYTES, PIXELS_DPI = 40_000, 100
"""Beyond which a figure is a picture of pixels, if that is smaller, and of how many."""
INTERACTIVE = ("pareto",)
"""Figures that the page has as interactive ones."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    cells: Sequence[Cell]
    control: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    html: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Image:
    source: str
    """A data: address."""
    caption: str


def state(records: Sequence[Record]) -> str:
    """How many runs ended in which way."""
    counts = {s: sum(r.status == s for r in records) for s in STATUSES}
    seconds = sum(record.stage_seconds for record in records)
    ended = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{ended}; {seconds / 60:.0f} minutes of computation" if ended else ""


def result_table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[Row]]:
    """The comparisons: accuracies and paired gains, a published figure where there is one."""
    if not comparisons:
        return [], []
    measured = shared_worst_cases(comparisons)
    theirs = [beside(comparison.arm.config) for comparison in comparisons]
    columns = ["configuration", "seeds", *headings(measured)]
    columns += ["published (clean / AutoAttack)"] if any(theirs) else []
    rows, family = [], holding(gains_of(comparisons))
    titles = short_titles(comparisons)
    for title, comparison, published in zip(titles, comparisons, theirs, strict=True):
        seeds = str(comparison.clean.num_distillations)
        found = [percent(comparison.found[measure]) for measure in measured]
        cells = [Cell(text=text) for text in (title, seeds, *found)]
        cells += [gain_cell(comparison.gains.get(measure), family) for measure in measured]
        cells += [Cell(text=published)] if any(theirs) else []
        rows.append(Row(cells=cells, control=comparison.is_control))
    return columns, rows


def gain_cell(gain: Estimate | None, family: Collection[Estimate]) -> Cell:
    text = signed_percent(gain) + marked(gain, family)
    return Cell(text=text, bold=gain is not None and gain.is_clear)


def grids(comparisons: Sequence[Comparison]) -> list[Table]:
    """Methods by penalties, and accuracy under each attack alone, where there are such figures."""
    spread = "Percent, mean ± deviation between seeds"
    found = [
        (
            "penalties",
            "Methods and penalties",
            f"{spread}; bold: clearly above the control, as in the first table.",
            penalty_grid(comparisons),
        ),
        (
            "attacks",
            "Attack by attack",
            f"{spread}; robust: right under all of them.",
            attack_grid(comparisons),
        ),
    ]
    return [
        Table(anchor=anchor, title=title, caption=caption, columns=grid[0], rows=grid[1])
        for anchor, title, caption, grid in found
        if grid
    ]


def undecided_tables(results: Results) -> list[Table]:
    """What the study has not found."""
    columns, rows = undecided_grid(results)
    caption = " ".join(filter(None, [in_words(results, rows), unimportant(results)]))
    if not caption:
        return []
    title = "What was not found"
    return [Table(anchor="undecided", title=title, caption=caption, columns=columns, rows=rows)]


def unimportant(results: Results) -> str:
    """That a search is too small to say which fields matter, if it is."""
    if not Search.of(results.records).complete:
        return ""
    regularized = [own for own in results.records if own.is_search and not own.control]
    ended = sum(own.status in ("complete", "diverged") for own in regularized)
    return cannot_be_told(ended) if ended else ""


def published_tables(story: Story) -> list[Table]:
    """The tables that the study is after, with the figures that cannot be right marked."""
    found = of_tables(story.after)
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
    return [
        Table(
            anchor="published",
            title="What was published",
            caption=caption,
            columns=["configuration", *ATTACKS],
            rows=rows,
        )
    ]


def interactive(results: Results) -> list[Plot]:
    saved = sum(
        float(stage["seconds"])
        for record in results.records
        for stage in record.stages
        if not stage["built"]
    )
    timeline = timeline_plot(read_timeline(results.folder.path), saved)
    is_sweep = any((results.folder.path / name).is_file() for name in storage.FILES)
    if not is_sweep:
        return [timeline] if timeline else []
    search = Search.of(results.records, results.max_clean_drop)
    overview = (pareto_plot(search, results.comparisons), ipc_plot(search))
    found = [*overview, *search_plots(results.folder, search), timeline]
    return [plot for plot in found if plot is not None]


def pictures(drawn: Mapping[str, Figure]) -> list[Picture]:
    """The figures, by file name."""
    return [
        Picture(html=shown(figure), caption=f"Also in the study's folder: {name}.png")
        for name, figure in drawn.items()
        if name not in INTERACTIVE
    ]


def shown(figure: Figure) -> str:
    """The figure as SVG, or one with so much in it that this is large as pixels."""
    text = svg(figure)
    if len(text) <= SVG_BYTES:
        return text
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", dpi=PIXELS_DPI, metadata={"Software": None})
    picture = f'<img alt="figure" src="{in_webp(pixels.getvalue())}">'
    return min(text, picture, key=len)


def svg(figure: Figure) -> str:
    """The figure as SVG that can stand in a page; the same bytes each time. Its text is text, which
    can be searched and takes a third of the glyphs' outlines."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def distilled_images(comparisons: Sequence[Comparison], records: Iterable[Record]) -> list[Image]:
    """The first seed's images of each arm; without arms, of the first records."""
    chosen = [c.arm.records[min(c.arm.records)] for c in comparisons] or list(records)
    images: list[Image] = []
    room = IMAGE_BYTES
    for record in chosen:
        path = Path(record.paths.get("distilled", "")) / "images.png"
        if "distilled" in record.paths and path.is_file() and len(images) < MAX_IMAGES:
            source = in_webp(path.read_bytes())
            room -= len(source)
            if room >= 0 or not images:
                caption = f"trial {record.label}: {record.title}"
                images.append(Image(source=source, caption=caption))
    return images


def in_webp(content: bytes) -> str:
    """A data: address of a PNG, as WebP without loss, which takes a third of it; one that cannot be
    read, or is too tall for one, is as it is."""
    kind = "png"
    with contextlib.suppress(OSError, ValueError), PIL.Image.open(io.BytesIO(content)) as opened:
        smaller = io.BytesIO()
        opened.save(smaller, "WEBP", lossless=True, quality=100, method=6)
        content, kind = smaller.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def flagged(records: Sequence[Record]) -> list[dict[str, str]]:
    """The runs whose accuracies are not to be taken as they are."""
    return [
        {
            "label": record.label,
            "name": record.title,
            "signs": "; ".join(signs(record)),
        }
        for record in records
        if record.flags
    ]


def trial_row(record: Record) -> list[str]:
    clean, robust = (f"{v:.3f}" if v is not None else "" for v in record.accuracies)
    return [
        record.label,
        record.title,
        record.status,
        clean,
        robust,
        f"{record.seconds:.1f}",
        record.reason,
    ]
