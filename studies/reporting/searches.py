"""What a search says of its space: maps of λ and h, parallel coordinates, what matters.

Maps show the trials' records. The rest reads the study's storage, with Optuna's plots where it has
one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from guard.errors import StudyError
from studies.reporting.interactive import BAR, ROBUST, Plot, piece, texts
from studies.reporting.series import BARRED, LEAST_ON_A_MAP, STEP, WEIGHT, Search
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.settling import is_control, is_foreign
from tune.storage import stored

ENOUGH = 20
"""Regularized trials that are complete: from fewer it cannot be told which fields matter."""
RESAMPLES = 20
"""Of the trials, for the interval of an importance."""
COLUMNS = 2


def searched(folder: StudyFolder) -> optuna.Study | None:
    """The complete, regularized trials of a sweep's storage; None without a sweep. Raises
    StudyError for a storage that cannot be read."""
    found = stored(folder)
    if found is None:
        return None
    study = optuna.create_study(directions=found.directions)
    for trial in found.get_trials(states=(TrialState.COMPLETE,)):
        if not is_control(trial) and not is_foreign(trial):
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
        constraints=trial.constraints,
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


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Share of the variance of robust accuracy that a field explains (fANOVA)."""

    share: float
    low: float
    high: float
    """The middle 90 % over samples of the trials, drawn with replacement."""


def importances(study: optuna.Study) -> dict[str, Importance]:
    """Of each field that varies, descending; empty for fewer than four trials, or where all are
    equally robust."""
    trials = study.get_trials(deepcopy=False)
    found = shares(study, seed=0)
    if not found:
        return {}
    draws = np.random.default_rng(0)
    samples = []
    for number in range(RESAMPLES):
        drawn = [trials[n] for n in draws.integers(0, len(trials), len(trials))]
        again = optuna.create_study(directions=study.directions)
        again.add_trials(drawn)
        samples.append(shares(again, seed=number))
    return {
        name: Importance(share=share, **middle([own.get(name, 0.0) for own in samples]))
        for name, share in found.items()
    }


def middle(values: Sequence[float]) -> dict[str, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return {"low": float(low), "high": float(high)}


def shares(study: optuna.Study, seed: int) -> dict[str, float]:
    """Share of the variance by field, descending."""
    trials = study.get_trials(deepcopy=False)
    names = varied(study)
    if len(trials) < 4 or not names or len({robust(trial) for trial in trials}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed, n_trees=32)
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=names, target=robust
        )
    return dict(found)


def search_plots(folder: StudyFolder, search: Search) -> Iterator[Plot]:
    """Maps, parallel coordinates and importance of a sweep, as far as there are trials enough;
    nothing for a storage that cannot be read."""
    maps = search.maps()
    if maps:
        yield maps_plot(search, maps)
    try:
        study = searched(folder)
    except StudyError:
        return
    if study is None:
        return
    count = len(study.get_trials(deepcopy=False))
    lines = coordinates(study)
    if lines is not None:
        yield lines
    if count >= ENOUGH:
        found = importances(study)
        if found:
            yield importance_plot(found, count)


def coordinates(study: optuna.Study) -> Plot | None:
    """What the regularized trials that may be chosen have in common; None for less than two."""
    every = study.get_trials(deepcopy=False)
    fine = [trial for trial in every if all(excess <= 0 for excess in trial.constraints.values())]
    shown = optuna.create_study(directions=study.directions)
    shown.add_trials(fine)
    names = varied(shown)
    if len(fine) < 2 or not names:
        return None
    view = optuna.visualization.plot_parallel_coordinate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        figure = view(shown, names, target=robust, target_name=ROBUST)
    caption = f"One line a regularized trial ({len(fine)}); robust validation accuracy."
    if len(fine) < len(every):
        caption += f" Of {len(every) - len(fine)} more no line: each {BARRED}."
    return Plot(title="Parallel coordinates", caption=caption, html=piece(figure))


def cannot_be_told(count: int) -> str:
    """Why a search does not say which fields matter; "" where it does."""
    if count >= ENOUGH:
        return ""
    return (
        f"Which hyper-parameters matter cannot be told from {count} complete regularized trials; "
        f"it takes {ENOUGH}."
    )


def maps_plot(search: Search, maps: Mapping[tuple[str, int], Sequence[Record]]) -> Plot:
    """One map a method and IPC: points with their values, and no colour where no trial is."""
    rows = -(-len(maps) // COLUMNS)
    titles = [f"{method}, IPC {ipc}" for method, ipc in maps]
    figure = make_subplots(rows=rows, cols=min(COLUMNS, len(maps)), subplot_titles=titles)
    for number, (place, records) in enumerate(maps.items()):
        where = {"row": number // COLUMNS + 1, "col": number % COLUMNS + 1}
        figure.add_trace(points_of(records), **where)
        figure.add_trace(bars_of(search.barred_of(records)), **where)
        figure.add_trace(crosses_of(search.ended_on(place)), **where)
    figure.update_xaxes(title="h", type="log")
    figure.update_yaxes(title="λ", type="log")
    figure.update_layout(
        showlegend=False,
        coloraxis={"colorscale": "Viridis", "reversescale": True, "colorbar": {"title": ROBUST}},
    )
    caption = (
        "Robust validation accuracy (share of images) of every complete trial; a bar over it: "
        f"{BARRED}; crosses: stopped early. Only methods and IPCs with at least "
        f"{LEAST_ON_A_MAP} complete trials."
    )
    return Plot(title="λ and h", caption=caption, html=piece(figure, 60 + 340 * rows))


def points_of(records: Sequence[Record]) -> go.Scatter:
    values = [record.objectives[1] for record in records]
    return go.Scatter(
        x=[record.params[STEP] for record in records],
        y=[record.params[WEIGHT] for record in records],
        text=[f"{value:.2f}" for value in values],
        hovertext=texts(records),
        mode="markers+text",
        textposition="top center",
        textfont={"size": 10},
        marker={"color": values, "coloraxis": "coloraxis", "size": 12},
    )


def bars_of(records: Sequence[Record]) -> go.Scatter:
    return go.Scatter(
        x=[record.params[STEP] for record in records],
        y=[record.params[WEIGHT] for record in records],
        hovertext=[f"{text}, {BARRED}" for text in texts(records)],
        mode="markers",
        marker={**BAR, "size": 20},
    )


def crosses_of(records: Sequence[Record]) -> go.Scatter:
    return go.Scatter(
        x=[record.params[STEP] for record in records],
        y=[record.params[WEIGHT] for record in records],
        hovertext=[
            f"{text}, {own.reason}" for text, own in zip(texts(records), records, strict=True)
        ],
        mode="markers",
        marker={"symbol": "x-thin-open", "color": "gray", "size": 8},
    )


def importance_plot(found: Mapping[str, Importance], count: int) -> Plot:
    shown = dict(reversed(list(found.items())))
    figure = go.Figure(
        go.Bar(
            x=[own.share for own in shown.values()],
            y=list(shown),
            orientation="h",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [max(own.high - own.share, 0.0) for own in shown.values()],
                "arrayminus": [max(own.share - own.low, 0.0) for own in shown.values()],
            },
        )
    )
    figure.update_xaxes(title="share of variance")
    caption = (
        f"What robust validation accuracy depends on (fANOVA, {count} complete regularized "
        f"trials); bars: the middle 90 % over {RESAMPLES} samples of the trials."
    )
    return Plot(title="Which hyper-parameters matter", caption=caption, html=piece(figure, 260))
