"""The metrics of a study's own run while it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient
from tracked import change, content, deliver, finished, rows, runs_of, wait_for

from builders import configured, record
from tune.results.folder import StudyFolder
from tune.timeline import FILE, Span, append
from tune.tracking import live
from tune.tracking.live import Live
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker

SPANS = [
    Span(
        stage=stage,
        key=str(n),
        worker="w",
        start=n,
        end=n + 0.5,
        cpu_percent=90 + n,
        memory_mib=400,
    )
    for n, stage in enumerate(["squeeze", "recover", "squeeze"])
]


def names(made: Live) -> list[tuple[str, int, float]]:
    return [
        (point.name, point.step, point.value)
        for point in made.pending()
        if point.name in ("num_trials", "system/squeeze/cpu_percent")
    ]


def test_it_is_a_function_of_the_folder(study: StudyFolder) -> None:
    append(study.path / FILE, SPANS[:1])
    made = Live(study, 0.03, {}, 0, [record(0)])
    assert names(made) == [("num_trials", 1, 1), ("system/squeeze/cpu_percent", 1, 90)]
    made.delivered()
    append(study.path / FILE, SPANS[1:])
    made.add(record(1))
    made.add(record(1))
    assert names(made) == [("num_trials", 2, 2), ("system/squeeze/cpu_percent", 2, 92)]
    whole = Live(study, 0.03, {}, 0, [record(0), record(1)])
    assert len(names(whole)) == 4
    there = {point.name: point.value for point in whole.pending()}
    both = [record(0), record(1)]
    assert Live(study, 0.03, there, 2, both).pending() == []
    other = {**there, "num_trials": 7.0}
    assert names(Live(study, 0.03, other, 5, both)) == [("num_trials", 6, 2)]
    going = Live(study, 0.03, there, 5, both)
    going.add(record(2))
    assert names(going) == [("num_trials", 6, 3)]


def test_a_trial_that_is_repeated_counts_once(study: StudyFolder) -> None:
    made = Live(study, 0.03, {}, 0, [record(0, status="failed", ended=1.0), record(1, ended=2.0)])
    made.delivered()
    made.add(record(0, ended=3.0))
    told = [(p.step, p.value, p.at) for p in made.pending() if p.name == "trials/complete"]
    assert told == [(3, 2.0, 3000)]
    last = {point.name: point.value for point in made.pending()}
    assert last["trials/failed"] == 0 and last["num_trials"] == 2


def test_times_are_those_of_the_ends(study: StudyFolder) -> None:
    append(study.path / FILE, SPANS[:1])
    made = Live(study, 0.03, {}, 0, [record(0, ended=12.5)])
    assert {point.at for point in made.pending()} == {12_500, 500}


def test_a_running_study_shows_what_it_has_come_to(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", -1.0)
    records = finished(study, 3)
    told = Tracker(study, open_store(study.tracking_uri, study), "note")
    append(study.path / FILE, SPANS)
    for one in records:
        told.finish(one)
    wait_for(told)
    told.close(records)
    client, parent = MlflowClient(study.tracking_uri), runs_of(study)["parent"].info.run_id
    grown = client.get_metric_history(parent, "num_trials")
    assert [(point.step, point.value) for point in grown] == [(1, 1), (2, 2), (3, 3)]
    used = client.get_metric_history(parent, "system/squeeze/memory_mib")
    assert [(point.step, point.timestamp) for point in used] == [(1, 500), (2, 2500)]
    count = rows(study, "metrics")
    deliver(study)
    assert rows(study, "metrics") == count


def test_a_stopped_trial_counts_at_once_and_once(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", -1.0)
    first, second = (replace(one, ended=float(one.trial + 1)) for one in finished(study, 2))
    stopped = replace(first, status="stopped", reason="rung 1", metrics={})
    study.remove(first)
    study.remove(second)
    told = Tracker(study, open_store(study.tracking_uri, study), "note")
    wait_for(told)
    for one, tell in ((stopped, told.pause), (second, told.finish)):
        study.write(one)
        tell(one)
    explained = replace(stopped, reason="rung 1 of 2: place 2 of 2")
    study.write(explained)
    told.finish(explained)
    told.close(study.records())
    client, parent = MlflowClient(study.tracking_uri), runs_of(study)["parent"].info.run_id
    for name, values in (("stopped", [1, 1]), ("complete", [0, 1])):
        grown = client.get_metric_history(parent, f"trials/{name}")
        assert [(point.step, point.value) for point in grown] == [*enumerate(values, start=1)]
    assert runs_of(study)["0"].data.tags["guard.status"] == "stopped"


def test_a_curve_that_is_lost_is_made_again(study: StudyFolder) -> None:
    for number, one in enumerate(finished(study, 3)):
        study.write(replace(one, ended=1000.0 + number))
    append(study.path / FILE, SPANS)
    deliver(study)
    whole, parent = content(study), runs_of(study)["parent"].info.run_id
    where = f"WHERE run_uuid = '{parent}'"
    change(study, f"DELETE FROM metrics {where}", f"DELETE FROM latest_metrics {where}")
    deliver(study)
    assert content(study) == whole


def test_a_trial_that_goes_on_is_delivered_again(study: StudyFolder) -> None:
    """A search had stopped it."""
    (one,) = finished(study, 1)
    stopped = replace(one, status="stopped", reason="rung 1", metrics={}, ended=1.0)
    study.write(stopped)
    told = Tracker(study, open_store(study.tracking_uri, study), "note")
    wait_for(told)
    study.write(replace(one, ended=2.0))
    told.finish(replace(one, ended=2.0))
    told.close(study.records())
    runs = runs_of(study)
    assert runs["0"].data.tags["guard.status"] == "complete"
    assert runs["0"].data.metrics["test/robust_accuracy"] == 0.4
    assert runs["parent"].data.metrics["trials/stopped"] == 0
    history = MlflowClient(study.tracking_uri).get_metric_history(
        runs["parent"].info.run_id, "trials/complete"
    )
    assert [(point.step, point.value) for point in history] == [(1, 0), (2, 1)]
    before = rows(study, "metrics")
    deliver(study)
    assert rows(study, "metrics") == before


def test_a_trial_that_was_not_told_of_counts_too(study: StudyFolder) -> None:
    records = finished(study, 2)
    study.write(record(9, config=configured({"seed": 9})))
    deliver(study)
    assert len(records) == 2 and runs_of(study)["parent"].data.metrics["num_trials"] == 3
