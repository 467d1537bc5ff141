"""Tracking on what it is for: files that processes share, PostgreSQL, and `mlflow server`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracked import content, deliver, finished, runs_of

from guard.errors import StudyError
from servers import Postgres, free_port, mlflow_server, waited_for
from tune.results.folder import StudyFolder
from tune.tracking import courier
from tune.tracking.opening import open_store
from tune.tracking.tracker import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FIRST_STUDY = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from tracked import deliver, finished
from tune.results.folder import StudyFolder
folder = StudyFolder(Path({output!r}), {name!r})
finished(folder, 1)
print("ready", flush=True)
sys.stdin.readline()
print(deliver(folder, {uri!r}).trouble)
"""


def first_study(output: Path, name: str, uri: str = "") -> subprocess.Popen[str]:
    """A process that is about to deliver a study of one trial."""
    code = FIRST_STUDY.format(path=sys.path, output=str(output), name=name, uri=uri)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def started(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def new_study(tmp_path: Path, name: str = "runs") -> StudyFolder:
    return StudyFolder(tmp_path / name, "s")


def test_two_first_studies_in_one_second(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    processes = [first_study(output, name) for name in "abc"]
    started(processes)
    assert [process.communicate()[0] for process in processes] == ["\n"] * 3
    found = subprocess.run(["ls", "-a", output], capture_output=True, text=True).stdout.split()
    assert not [name for name in found if name.startswith(".mlflow.db-")]
    for name in "abc":
        deliver(StudyFolder(output, name))


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.5, 4.0])
def test_a_kill_while_the_database_is_made(tmp_path: Path, seconds: float) -> None:
    study = new_study(tmp_path)
    process = first_study(study.output, study.name)
    started([process])
    waited_for(lambda: bool(list(study.output.glob(".mlflow.db-*"))))
    time.sleep(seconds)
    process.kill()
    process.wait()
    finished(study)
    assert deliver(study).trouble == ""
    assert len(content(study)) == 3
    assert not list(study.output.glob(".mlflow.db-*"))


def test_a_server_gets_what_a_file_gets(tmp_path: Path) -> None:
    study, port = new_study(tmp_path), free_port()
    uri = f"http://127.0.0.1:{port}"
    finished(study, 4)
    deliver(study)
    whole = content(study)
    shutil.rmtree(study.output / "mlflow")
    with mlflow_server(tmp_path, port):
        assert deliver(study, uri).trouble == ""
        assert content(study, uri) == whole
        assert deliver(study, uri).trouble == ""
        assert content(study, uri) == whole
        assert not (study.output / "mlflow").exists()
        shutil.rmtree(tmp_path / "server")
        assert deliver(study, uri).trouble == ""
        assert content(study, uri) == whole


def test_a_server_that_is_killed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "AWAY_TIMEOUT_S", 120.0)
    study, port = new_study(tmp_path), free_port()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path, port):
        told = Tracker(study, open_store(uri, study), "note")
        records = finished(study, 60)
        for one in records[:20]:
            told.finish(one)
        time.sleep(1.0)
    for one in records[20:40]:
        told.finish(one)
    with mlflow_server(tmp_path, port):
        time.sleep(1.5)
    with mlflow_server(tmp_path, port):
        for one in records[40:]:
            told.finish(one)
        told.close(records)
        assert told.trouble == ""
        there = content(study, uri)
        deliver(study)
        assert there == content(study)


def test_postgresql_gets_what_a_file_gets(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = new_study(tmp_path)
    finished(study, 4)
    deliver(study)
    whole = content(study)
    shutil.rmtree(study.output / "mlflow")
    assert deliver(study, postgres.uri).trouble == ""
    assert content(study, postgres.uri) == whole
    assert deliver(study, postgres.uri).trouble == ""
    assert content(study, postgres.uri) == whole
    assert len(list((study.output / "mlflow").iterdir())) == 4
    assert not (tmp_path / "mlruns").exists()


def test_two_first_studies_on_an_empty_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    processes = [first_study(tmp_path / name, name, postgres.uri) for name in "ab"]
    started(processes)
    assert [process.communicate()[0] for process in processes] == ["\n"] * 2


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_a_kill_while_postgresqls_tables_are_made(
    tmp_path: Path, postgres: Postgres, seconds: float
) -> None:
    process = first_study(tmp_path / "killed", "a", postgres.uri)
    started([process])
    time.sleep(4 + seconds)
    process.kill()
    process.wait()
    study = new_study(tmp_path)
    finished(study)
    assert deliver(study, postgres.uri).trouble == ""


def test_a_postgresql_that_stops_and_starts(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "AWAY_TIMEOUT_S", 120.0)
    study = new_study(tmp_path)
    told = Tracker(study, open_store(postgres.uri, study), "note")
    records = finished(study, 30)
    for one in records[:10]:
        told.finish(one)
    postgres.stop()
    for one in records[10:]:
        told.finish(one)
    time.sleep(1.0)
    postgres.start()
    told.close(records)
    assert told.trouble == ""
    deliver(study)
    assert content(study, postgres.uri) == content(study)


def test_a_wrong_password_is_one_line(tmp_path: Path, postgres: Postgres) -> None:
    study = new_study(tmp_path)
    with pytest.raises(StudyError, match="password authentication failed") as refused:
        open_store(postgres.uri.replace("se%20cret", "wrong"), study)
    text = str(refused.value)
    assert "\n" not in text and "wrong" not in text and "me:***@127.0.0.1" in text
    with pytest.raises(StudyError, match="cannot be opened"):
        open_store("postgresql://me:wrong@127.0.0.1:1/x", study)


def test_a_trial_of_either_kind_of_store_is_one_run(tmp_path: Path, postgres: Postgres) -> None:
    study = new_study(tmp_path)
    finished(study, 2)
    deliver(study, postgres.uri)
    assert set(runs_of(study, postgres.uri)) == {"0", "1", "parent"}
