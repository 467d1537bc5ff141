"""The page that a study opens with; tests/studies/test_browser.py looks at it."""

from __future__ import annotations

import json
from dataclasses import replace

from mlflow.tracking import MlflowClient
from tracked import deliver, finished, runs_of

from builders import configured, record, scores
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.tracking.identity import page_of
from tune.tracking.view import MOST_PARAMS, TAG, USUAL, envelope, searched, state_of


def searching(number: int, **params: object) -> Record:
    return record(number, params=params, metrics=scores(0.9, 0.4, "validation"))


def test_what_was_searched_is_what_is_shown() -> None:
    records = [
        searching(0, **{"method": "cda", "sre2l.lr": 0.1, "seed": 1}),
        searching(1, **{"regularizer.h": 0.1, "method": "sre2l", "ipc": 1}),
    ]
    assert searched(records) == ["method", "ipc", "regularizer.h", "sre2l.lr"]
    assert searched([]) == list(USUAL)
    many = searching(2, **{f"sre2l.x{n}": n for n in range(20)})
    assert len(searched([many])) == MOST_PARAMS
    state = state_of("p", records)
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'p'"
    assert state["orderByKey"] == "metrics.`validation/robust_accuracy`"
    assert "params.`sre2l.lr`" in state["selectedColumns"]
    assert state["groupBy"] is None
    kinds = [chart["type"] for chart in state["compareRunCharts"]]
    assert kinds == ["SCATTER", "PARALLEL", "BAR", "BAR"]


def test_where_nothing_was_searched_bars_are_means_over_seeds() -> None:
    on_test = record(0, params={"seed": 1}, metrics=scores(0.9, 0.4, "test"))
    state = state_of("p", [on_test])
    assert state["orderByKey"] == "metrics.`test/robust_accuracy`"
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "guard.arm"}]


def test_a_view_has_a_name_and_is_its_own_state() -> None:
    state = state_of(
        "p" * 32, [searching(0, **{f"a.long.name.of.a.field{n}": n for n in range(9)})]
    )
    text = envelope("s", 5, state)
    saved = json.loads(text)
    assert json.loads(saved["state"]) == state and saved["name"] == "s"
    assert all(saved[name] == value for name, value in state.items())
    assert len(text) < 8000


def test_a_study_has_one_view_and_one_address(study: StudyFolder) -> None:
    finished(study)
    deliver(study)
    identity = json.loads((study.path / "mlflow.json").read_text())["id"]
    client = MlflowClient(study.tracking_uri)
    tags = client.get_experiment("1").tags
    assert [name for name in tags if name.startswith(TAG)] == [TAG + identity]
    run = runs_of(study)["parent"]
    assert json.loads(tags[TAG + identity])["createdAt"] == run.info.start_time
    page = f"#/experiments/1/runs?viewStateShareKey={identity}&compareRunsMode=CHART"
    assert page_of(study) == page
    assert run.data.tags["mlflow.note.content"] == f"[Its trials with charts]({page})\n\nnote"
    deliver(study)
    assert client.get_experiment("1").tags == tags


def test_seeds_are_no_part_of_an_arm(study: StudyFolder) -> None:
    for one in finished(study):
        study.write(replace(one, params={"seed": one.trial, "ipc": 1}))
    deliver(study)
    runs = [run for label, run in runs_of(study).items() if label != "parent"]
    assert len({run.info.run_name for run in runs}) == 2
    assert {run.data.tags["guard.arm"] for run in runs} == {
        "curvature (λ = 0.1, h = 0.1), sre2l, IPC 10"
    }
    assert configured().ipc == 10
