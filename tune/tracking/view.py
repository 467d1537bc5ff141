"""The page of MLflow's UI that a study opens with: its trials, the columns that matter, charts.

The UI keeps the views that people save as tags of the experiment, JSON of its own state; this
writes one a study. What the UI does not know it leaves out, and what is left out has its default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from guard.robustness.measures import CLEAN, ROBUST
from tune.results.records import SEEDS, Record

TAG = "mlflow.sharedViewState."
"""And the view's key."""
ARM = "guard.arm"
"""A tag of a run: its configuration in words, without what only repeats it."""
USUAL = ("method", "ipc", "regularizer.kind", "regularizer.weight", "regularizer.h")
BARRED = "guard.barred"
"""A tag of a run: why the search must not choose its trial."""
STATUS, REASON = "guard.status", "guard.reason"
"""Tags of a run: how its trial ended."""
MOST_PARAMS = 8
SECTION = "The study"
"""Of the page, with its charts."""
MOST_RUNS = 1000
"""That a chart draws; the UI's own limit is the page that it has loaded."""
ATTRIBUTES = ("Dataset", "Models", "Source")


def page(experiment_id: str, key: str) -> str:
    """The view's address after that of the UI."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&compareRunsMode=CHART"


def linked(note: str, page: str) -> str:
    """A study's note after the address of its page, which the UI takes as below its own; of a long
    note it shows the beginning."""
    return f"[Its trials with charts]({page})\n\n{note}"


def envelope(name: str, created: int, state: dict[str, Any]) -> str:
    """The tag's value: a saved view with its name, which MLflow before 3.17 takes for the state
    itself. created: milliseconds since the epoch."""
    saved = {"name": name, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    return json.dumps({**saved, **state})


def state_of(parent: str, records: Sequence[Record]) -> dict[str, Any]:
    """Of the UI, for the trials of a study's run: the most robust first, averages over seeds where
    nothing was searched."""
    is_search = any(record.split == "validation" for record in records if record.is_search)
    split = "validation" if is_search or not records else "test"
    clean, robust = CLEAN.on(split), ROBUST.on(split)
    params = searched(records)
    shown = [
        *(column("metrics", name) for name in (robust, clean)),
        *(column("tags", name) for name in (BARRED, STATUS, REASON) if is_search),
        *(column("params", path) for path in params),
        *(column("attributes", name) for name in ATTRIBUTES),
    ]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": column("metrics", robust),
        "orderByAsc": False,
        "selectedColumns": shown,
        "columnOrder": shown,
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": None if is_search else averages(),
        "compareRunSections": [
            {
                "uuid": SECTION,
                "name": SECTION,
                "display": True,
                "isReordered": True,
                "columns": 2,
                "cardHeight": 400,
            }
        ],
        "isAccordionReordered": True,
        "compareRunCharts": [
            chart("SCATTER", "Clean against robust", xaxis=axis(clean), yaxis=axis(robust)),
            chart(
                "PARALLEL",
                "What the trials have, and how robust they are",
                selectedParams=list(params),
                selectedMetrics=[clean, robust],
                showAllRuns=True,
            ),
            chart("BAR", "Robust accuracy", metricKey=robust, selectedMetricKeys=[robust]),
            chart("BAR", "Clean accuracy", metricKey=clean, selectedMetricKeys=[clean]),
        ],
    }


def searched(records: Iterable[Record]) -> list[str]:
    """Paths that set trials apart in their study, the usual ones first; the usual ones alone before
    there is a trial."""
    found = {path for record in records for path in record.params if path not in SEEDS}
    if not found:
        return list(USUAL)
    usual = [path for path in USUAL if path in found]
    return [*usual, *sorted(found - set(USUAL))][:MOST_PARAMS]


def column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def averages() -> dict[str, Any]:
    """Runs put together by their configuration."""
    return {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": ARM}],
    }


def chart(kind: str, title: str, **what: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": title,
        "displayName": title,
        "metricSectionId": SECTION,
        "runsCountToCompare": MOST_RUNS,
        "deleted": False,
        "isGenerated": False,
        **what,
    }
