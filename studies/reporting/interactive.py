"""Interactive pictures of a study for its report, as pieces of HTML.

Optuna's own plots where it has one; they read the study's storage, so they show a search only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from guard.errors import StudyError
from studies.reporting.series import Cloud, Search, points
from tune.results.comparison import Comparison
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.statistics import Estimate
from tune.results.tables import level
from tune.space import CONTROL
from tune.storage import stored
from tune.timeline import Span

ROBUST, CLEAN = "robust accuracy", "clean accuracy"
WEIGHT, STEP = "regularizer.weight", "regularizer.h"
FONT = {"family": "system-ui, sans-serif", "size": 13}
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


def searched(folder: StudyFolder) -> optuna.Study | None:
    """The complete, regularized trials of a sweep's storage; None without a sweep. Raises
    StudyError for a storage that cannot be read."""
    found = stored(folder)
    if found is None:
        return None
    study = optuna.create_study(directions=found.directions)
    for trial in found.get_trials(states=(TrialState.COMPLETE,)):
        if not trial.user_attrs.get(CONTROL):
            study.add_trial(with_lists_as_text(trial))
    return study


def with_lists_as_text(trial: FrozenTrial) -> FrozenTrial:
    """A choice among lists, as of attacks, is one among their texts: lists have no place in a set
    or on an axis."""

    def text(value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value

    distributions = {
        name: CategoricalDistribution([text(choice) for choice in own.choices])
        if isinstance(own, CategoricalDistribution)
        else own
        for name, own in trial.distributions.items()
    }
    return optuna.trial.create_trial(
        values=trial.values,
        params={name: text(value) for name, value in trial.params.items()},
        distributions=distributions,
        user_attrs=trial.user_attrs,
    )


def robust(trial: FrozenTrial) -> float:
    return float(trial.values[1])


def varied(study: optuna.Study) -> list[str]:
    """Parameters that every trial has, with at least two values."""
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return []
    shared = set.intersection(*(set(trial.params) for trial in trials))
    counts = {name: len({trial.params[name] for trial in trials}) for name in shared}
    return sorted(name for name, count in counts.items() if count > 1)


def importances(study: optuna.Study) -> Mapping[str, float]:
    """Share of the robust accuracy's variance that each parameter explains (fANOVA), descending;
    empty for fewer than four trials, or where all are equally robust."""
    trials = study.get_trials(deepcopy=False)
    names = varied(study)
    if len(trials) < 4 or not names or len({robust(trial) for trial in trials}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=names, target=robust
        )
    return dict(found)


def search_plots(folder: StudyFolder) -> list[Plot]:
    """λ x h, parallel coordinates and importance of a sweep, as far as there are trials enough;
    nothing for a storage that cannot be read."""
    try:
        study = searched(folder)
    except StudyError:
        return []
    if study is None:
        return []
    names, count = varied(study), len(study.get_trials(deepcopy=False))
    views = optuna.visualization
    plots = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if {WEIGHT, STEP} <= set(names):
            figure = views.plot_contour(
                study, params=[WEIGHT, STEP], target=robust, target_name=ROBUST
            )
            caption = f"Robust validation accuracy (share of images); λ against h; {count} trials."
            plots.append(Plot(title="The λ x h map", caption=caption, html=piece(figure)))
        if names and count > 1:
            figure = views.plot_parallel_coordinate(study, names, target=robust, target_name=ROBUST)
            caption = f"One line a regularized trial ({count}); robust validation accuracy."
            plots.append(Plot(title="Parallel coordinates", caption=caption, html=piece(figure)))
    found = importances(study)
    if found:
        shown = dict(reversed(list(found.items())))
        bars = go.Bar(x=list(shown.values()), y=list(shown), orientation="h")
        figure = go.Figure(bars).update_xaxes(title="share of variance")
        caption = f"What robust validation accuracy depends on (fANOVA, {count} trials)."
        plots.append(
            Plot(title="Which hyper-parameters matter", caption=caption, html=piece(figure, 260))
        )
    return plots


def pareto_plot(records: Sequence[Record], comparisons: Sequence[Comparison]) -> Plot | None:
    """Every complete trial of a search by clean and robust validation accuracy; with error bars,
    what the confirmation says on test images."""
    search = Search.of(records)
    if not search.complete:
        return None
    figure = go.Figure()
    line = {"color": "gray", "width": 1, "shape": "hv"}
    figure.add_trace(scatter(search.front, "Pareto front", mode="lines", line=line))
    for cloud in search.clouds():
        figure.add_trace(scatter(cloud.records, cloud.label, mode="markers", marker=looks(cloud)))
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


def ipc_plot(records: Sequence[Record]) -> Plot | None:
    """Every complete trial of a search by IPC; None with one IPC."""
    search = Search.of(records)
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
    symbol = MARKERS[cloud.look % len(MARKERS)]
    return {"symbol": symbol + ("-open" if cloud.control else ""), "size": 11}


def texts(records: Sequence[Record]) -> list[str]:
    """What stands beside a point under the cursor."""
    return [f"trial {record.trial}: {record.title}" for record in records]


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
    busy = math.fsum(span.end - span.start for span in ordered)
    caption = (
        f"{len(spans)} stages computed in {busy:.0f} s of work; results that were there already "
        f"saved {saved_seconds:.0f} s."
    )
    return Plot(
        title="Stages on workers", caption=caption, html=piece(figure, 160 + 40 * len(workers))
    )
