"""Interactive pictures of a study for its report, as pieces of HTML."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from studies.reporting.series import BARRED, Cloud, Search, points
from tune.results.comparison import Comparison
from tune.results.records import Record
from tune.results.statistics import Estimate
from tune.results.tables import level
from tune.timeline import Span

ROBUST, CLEAN = "robust accuracy", "clean accuracy"
FONT = {"family": "system-ui, sans-serif", "size": 13}
COLORS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#7f7f7f")
BAR = {"symbol": "line-ew-open", "size": 16, "color": "dimgray", "line": {"width": 2}}
"""Over a trial that must not be chosen."""
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "pentagon")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of the report."""

    title: str
    caption: str
    """What it shows, its units, how many of what."""
    html: str


def piece(figure: go.Figure, height: int = 460) -> str:
    """A div without plotly's code, which the page has once."""
    figure.update_layout(
        template="plotly_white", font=FONT, height=height, margin={"t": 40, "r": 20}, title=None
    )
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False}
    )
    return text


def pareto_plot(search: Search, comparisons: Sequence[Comparison]) -> Plot | None:
    """Every complete trial of a search by clean and robust validation accuracy; with error bars,
    what the confirmation says on test images."""
    if not search.complete:
        return None
    figure = go.Figure()
    line = {"color": "gray", "width": 1, "shape": "hv"}
    figure.add_trace(scatter(search.front, "Pareto front", mode="lines", line=line))
    for cloud in search.clouds():
        figure.add_trace(scatter(cloud.records, cloud.label, mode="markers", marker=looks(cloud)))
    if search.barred:
        figure.add_trace(scatter(search.barred, BARRED, mode="markers", marker=BAR))
    for comparison in comparisons:
        figure.add_trace(confirmed(comparison))
    figure.update_xaxes(title=f"{CLEAN} (share of images)")
    figure.update_yaxes(title=f"{ROBUST} (share of images)")
    count, samples = len(search.complete), search.num_samples
    caption = f"{count} students on {samples} validation images, one seed each."
    if comparisons:
        found = comparisons[0].clean
        caption += (
            f" With the {level([found])}: the confirmation, {found.num_distillations} new seeds on "
            f"{found.num_samples} test images under a stronger suite."
        )
    return Plot(
        title="The search: clean against robust accuracy", caption=caption, html=piece(figure)
    )


def confirmed(comparison: Comparison) -> go.Scatter:
    """A point with its intervals."""
    clean, robust = comparison.clean, comparison.robust
    marker = {"symbol": "circle-x-open" if comparison.is_control else "circle-x", "size": 12}
    return go.Scatter(
        x=[clean.mean],
        y=[robust.mean],
        error_x=bars(clean),
        error_y=bars(robust),
        mode="markers",
        marker={**marker, "color": "black"},
        name=f"confirmed: {comparison.arm.title}",
    )


def bars(found: Estimate) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [found.high - found.mean],
        "arrayminus": [found.mean - found.low],
    }


def ipc_plot(search: Search) -> Plot | None:
    """Every complete trial of a search by IPC; None with one IPC."""
    if len(search.ipcs) < 2:
        return None
    figure = go.Figure()
    for cloud in search.clouds(by_ipc=False):
        _, robust = points(cloud.records)
        figure.add_trace(
            go.Scatter(
                x=[record.group[1] for record in cloud.records],
                y=robust,
                text=texts(cloud.records),
                mode="markers",
                marker=looks(cloud),
                name=cloud.label,
            )
        )
    if search.barred:
        place = {"x": [own.group[1] for own in search.barred], "y": points(search.barred)[1]}
        figure.add_trace(go.Scatter(**place, name=BARRED, mode="markers", marker=BAR))
    figure.update_xaxes(title="images per class", type="log", dtick="D1")
    figure.update_yaxes(title=f"{ROBUST} (validation)", range=[0, 1])
    caption = f"{len(search.complete)} students of the search, one seed each."
    return Plot(
        title="Robust accuracy against images per class", caption=caption, html=piece(figure, 380)
    )


def scatter(records: Sequence[Record], name: str, **looks: object) -> go.Scatter:
    clean, robust = points(records)
    return go.Scatter(x=clean, y=robust, text=texts(records), name=name, **looks)


def looks(cloud: Cloud) -> dict[str, object]:
    round_number, place = divmod(cloud.look, len(COLORS))
    symbol, color = MARKERS[(place + round_number) % len(MARKERS)], COLORS[place]
    return {"symbol": symbol + ("-open" if cloud.control else ""), "size": 11, "color": color}


def texts(records: Sequence[Record]) -> list[str]:
    """What stands beside a point under the cursor."""
    return [f"trial {record.trial}: {record.title}" for record in records]


def most_at_once(starts: Sequence[float], lengths: Sequence[float]) -> int:
    """How many of the spans lay side by side at most; one that begins when another ends does
    not."""
    changes = [(s, 1) for s in starts] + [(s + n, -1) for s, n in zip(starts, lengths, strict=True)]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


def timeline_plot(spans: Sequence[Span], saved_seconds: float) -> Plot | None:
    """Stages on workers over time; pauses between sessions are cut out."""
    if not spans:
        return None
    ordered = sorted(spans, key=lambda span: span.start)
    offset, end, starts = ordered[0].start, ordered[0].start, []
    for span in ordered:
        if span.start > end:
            offset += max(0.0, span.start - end - 60.0)
        end = max(end, span.end)
        starts.append(span.start - offset)
    workers = {
        worker: f"worker {n + 1}"
        for n, worker in enumerate(dict.fromkeys(span.worker for span in ordered))
    }
    figure = go.Figure()
    for name in dict.fromkeys(span.stage for span in ordered):
        own = [(s, start) for s, start in zip(ordered, starts, strict=True) if s.stage == name]
        figure.add_trace(
            go.Bar(
                name=name,
                orientation="h",
                base=[start for _, start in own],
                x=[span.end - span.start for span, _ in own],
                y=[workers[span.worker] for span, _ in own],
                hovertemplate="%{x:.1f} s<extra>" + name + "</extra>",
            )
        )
    figure.update_layout(barmode="overlay", bargap=0.3)
    figure.update_xaxes(title="seconds")
    lengths = [span.end - span.start for span in ordered]
    busy, at_once = math.fsum(lengths), most_at_once(starts, lengths)
    between = max(map(operator.add, starts, lengths)) - starts[0]
    share = (
        f", {busy / (at_once * between):.0%} of what {at_once} at a time could" if between else ""
    )
    caption = (
        f"{len(spans)} stages computed in {busy:.0f} s of work{share}; results that were there "
        f"already saved {saved_seconds:.0f} s."
    )
    return Plot(
        title="Stages on workers", caption=caption, html=piece(figure, 160 + 40 * len(workers))
    )
