"""A server that is away, slow or ill costs no trial a second and loses nothing."""

from __future__ import annotations

import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tracked import content, deliver, finished, rows, wait_for

from builders import configured
from guard.errors import StudyError
from tune.results.folder import StudyFolder
from tune.tracking import courier, opening, tracker
from tune.tracking.courier import Courier, Job
from tune.tracking.opening import open_store
from tune.tracking.store import Store
from tune.tracking.tracker import Tracker

CALLS = (
    *("experiment", "runs", "models", "last_step", "create", "read", "create_model", "log"),
    *("link",),
    *("finish_model", "end", "resume", "upload", "sizes"),
)
TRIAL = [
    *("create_run", "log_inputs", "create_logged_model", "log_batch", "log_outputs"),
    *("finalize_logged_model", "update_run_info"),
]
"""Requests that a trial takes, beside those for its files."""


def failing(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[str], bool], *, late: bool = False
) -> None:
    """Let calls fail, before they are carried out or after."""

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            failed = fails(name)
            if failed and not late:
                raise MlflowException(f"{name} is away")
            answer = call(*arguments, **named)
            if failed:
                raise MlflowException(f"{name} was not answered")
            return answer

        return made

    for name in CALLS:
        monkeypatch.setattr(Store, name, wrapped(name, getattr(Store, name)))


@pytest.mark.parametrize("late", [False, True], ids=["not carried out", "not answered"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_calls_that_fail_at_random_change_nothing_in_the_end(
    study: StudyFolder,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    late: bool,
) -> None:
    records = finished(study, 6)
    deliver(study)
    whole, counts = content(study), [rows(study, table) for table in ("metrics", "params")]
    shutil.copy(empty_database, study.output / "mlflow.db")
    opened = open_store(study.tracking_uri, study)
    draws = random.Random(seed)
    monkeypatch.setattr(courier, "ATTEMPTS", 30)
    monkeypatch.setattr(courier, "AWAY_TIMEOUT_S", 20.0)
    failing(monkeypatch, lambda name: draws.random() < 0.2, late=late)
    told = Tracker(study, opened, "note")
    told.start()
    for one in records:
        told.stage(one.trial, configured({"seed": one.trial}), {}, {"test/clean_accuracy": 0.9})
        told.finish(one)
    told.close(records)
    assert told.trouble == ""
    monkeypatch.undo()
    assert content(study) == whole
    assert [rows(study, table) for table in ("metrics", "params")] == counts


def test_what_is_away_is_said_in_a_line_and_delivered_by_the_next_command(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = finished(study, 3)
    opened = open_store(study.tracking_uri, study)
    failing(monkeypatch, lambda name: True)
    began = time.monotonic()
    told = Tracker(study, opened, "note")
    for one in records:
        told.finish(one)
    assert time.monotonic() - began < 0.5
    told.close(records)
    assert told.trouble == (
        "MLflow: 3 trials are not delivered yet (experiment is away); the same command delivers "
        "them"
    )
    monkeypatch.undo()
    assert deliver(study).trouble == ""
    assert len(content(study)) == 4


def test_a_store_that_is_back_gets_what_it_has_missed(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = finished(study, 3)
    opened = open_store(study.tracking_uri, study)
    back = threading.Event()
    failing(monkeypatch, lambda name: not back.is_set())
    told = Tracker(study, opened, "note")
    for one in records:
        told.finish(one)
    monkeypatch.setattr(courier, "AWAY_TIMEOUT_S", 20.0)
    time.sleep(0.1)
    assert told.backlog == 3
    back.set()
    told.close(records)
    assert told.trouble == "" and len(content(study)) == 4


def test_a_trial_that_is_refused_keeps_no_other(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = finished(study, 3)
    opened = open_store(study.tracking_uri, study)
    log = Store.log

    def refuse(self: Store, run: Any, *others: Any, **named: Any) -> None:
        if run.tags.get("guard.trial") == "1":
            raise MlflowException("no such thing")
        log(self, run, *others, **named)

    monkeypatch.setattr(Store, "log", refuse)
    monkeypatch.setattr(courier, "AWAY_TIMEOUT_S", 20.0)
    told = Tracker(study, opened, "note")
    told.close(records)
    assert told.trouble == (
        "MLflow: 1 trials are not delivered yet (no such thing); the same command delivers them"
    )
    said = content(study)
    assert [said[str(number)]["status"] for number in range(3)] == [
        "FINISHED",
        "KILLED",
        "FINISHED",
    ]


def test_the_last_job_comes_after_all_others() -> None:
    done: list[str] = []

    def job(name: str) -> Job:
        return Job(name, lambda: done.append(name))

    gate = threading.Event()
    own = Courier(lambda: None, lambda: None)
    own.add(Job("gate", gate.wait))  # type: ignore[arg-type]
    own.add_later(job("old"))
    own.add(job("new"))
    own.add(job("newer"))
    gate.set()
    assert own.close(job("last"))
    assert done == ["new", "newer", "old", "last"]


def test_closing_does_not_wait_for_a_job_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "STILL_TIMEOUT_S", 0.3)
    own, gate = Courier(lambda: None, lambda: None), threading.Event()
    own.add(Job("x", gate.wait))  # type: ignore[arg-type]
    assert not own.close(Job("last", lambda: None))
    gate.set()


def test_a_password_in_an_error_is_not_told(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(study, 1)
    opened = open_store(study.tracking_uri, study)

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("API request to http://me:secret@host/x failed")

    monkeypatch.setattr(Store, "create", refuse)
    told = Tracker(study, opened, "note")
    told.close([])
    assert "http://***@host/x failed" in told.trouble and "secret" not in told.trouble


@pytest.fixture
def silent_server() -> Iterator[str]:
    """It accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def ill_server() -> Iterator[str]:
    """It answers 500 to everything."""

    class Ill(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Ill)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://me:secret@127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_that_does_not_answer_is_refused_soon(
    study: StudyFolder, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(StudyError) as refused:
        open_store(silent_server, study)
    assert str(refused.value) == f"MLflow at {silent_server} does not answer (timed out)"


def test_a_server_that_stays_ill_is_refused_without_its_password(
    study: StudyFolder, ill_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "ILL_S", 0.1)
    monkeypatch.setattr(opening, "ILL_PAUSE_S", 0.1)
    with pytest.raises(StudyError, match="answers with an error") as refused:
        open_store(ill_server, study)
    text = str(refused.value)
    assert "secret" not in text and "***@127.0.0.1" in text and "\n" not in text


class Counting:
    """A store of MLflow's that counts what is asked of it: each is a request to a server."""

    def __init__(self, own: Any, calls: list[str]) -> None:
        self._own, self._calls = own, calls

    def __getattr__(self, name: str) -> Any:
        if name != "shut_down_async_logging":  # of this process alone
            self._calls.append(name)
        return getattr(self._own, name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    made: list[str] = []
    own = TrackingServiceClient.store
    counting = property(lambda self: Counting(own.fget(self), made))  # type: ignore[attr-defined]
    monkeypatch.setattr(TrackingServiceClient, "store", counting)
    return made


def test_a_trial_takes_seven_requests(study: StudyFolder, calls: list[str]) -> None:
    records = finished(study, 3)
    opened = open_store(study.tracking_uri, study)
    told = Tracker(study, opened, "note")
    wait_for(told)
    assert calls[-21:] == 3 * TRIAL
    told.close(records)
    calls.clear()
    deliver(study)
    looked = ["get_experiment_by_name", "get_metric_history"]
    looked += ["search_logged_models", "search_runs"]
    assert sorted(set(calls)) == [*looked, "update_run_info"]
    assert len(calls) == 6


def test_a_short_trial_takes_no_more_for_showing_itself(
    study: StudyFolder, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Tracker(study, open_store(study.tracking_uri, study), "note")
    config = configured({"seed": 0})
    for heading in ("teacher", "distilled", "student"):
        told.stage(0, config, {}, {f"{heading}/clean_accuracy": 0.9})
    told.finish(finished(study, 1)[0])
    wait_for(told)
    assert calls[-7:] == TRIAL
    monkeypatch.setattr(tracker, "SHOW_INTERVAL_S", 0.0)
    told.stage(1, configured({"seed": 1}), {}, {"teacher/clean_accuracy": 0.75}, seconds=5.0)
    told.close([])
    run = MlflowClient(study.tracking_uri).search_runs(["1"], "tags.`guard.trial` = '1'")[0]
    assert run.data.metrics == {"teacher/clean_accuracy": 0.75}
