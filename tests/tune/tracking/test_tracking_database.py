"""MLflow's database: made whole by one process, and refused in one line where it is another's."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from tracked import content, deliver, finished

from guard.errors import StudyError
from tune.places import sqlite_uri
from tune.results.folder import StudyFolder
from tune.tracking import database
from tune.tracking.opening import open_store


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def test_it_is_made_by_one_of_two_first_studies(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(uri: str) -> None:
        made.append(uri)
        assert not (tmp_path / "mlflow.db").exists()
        time.sleep(0.2)
        shutil.copy(empty_database, uri.removeprefix("sqlite:///"))

    monkeypatch.setattr(database, "make", make)
    uri = sqlite_uri(tmp_path / "mlflow.db")
    threads = [threading.Thread(target=database.prepare, args=(uri,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and made[0] != uri
    assert (tmp_path / "mlflow.db").read_bytes() == empty_database.read_bytes()


def test_what_a_kill_left_half_made_is_removed(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / ".mlflow.db-1"
    half.write_bytes(empty_database.read_bytes()[:5000])
    (tmp_path / ".mlflow.db-1-journal").write_text("x")
    monkeypatch.setattr(
        database, "make", lambda uri: shutil.copy(empty_database, uri.removeprefix("sqlite:///"))
    )
    database.prepare(sqlite_uri(tmp_path / "mlflow.db"))
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


NEWER = "was made by a newer MLflow than"
OLDER = "was made by an older MLflow, or only half; copy it and run `mlflow db upgrade sqlite:///"
REFUSED = {
    "newer": ("UPDATE alembic_version SET version_num = 'ffffffffffff'", NEWER),
    "older": ("UPDATE alembic_version SET version_num = '451aebb31d03'", OLDER),
    "half": ("DELETE FROM alembic_version", OLDER),
}


@pytest.mark.parametrize(("statement", "line"), REFUSED.values(), ids=REFUSED)
def test_another_mlflows_is_one_line_and_left_alone(
    study: StudyFolder, statement: str, line: str
) -> None:
    file = study.output / "mlflow.db"
    change(file, statement)
    before = file.read_bytes()
    with pytest.raises(StudyError) as refused:
        open_store(study.tracking_uri, study)
    text = str(refused.value)
    assert text.startswith(f"MLflow at {study.tracking_uri} {line}") and "\n" not in text
    assert text.endswith("or name another place, where the same command writes every run")
    assert file.read_bytes() == before


def test_what_is_no_database_of_mlflows_is_one_line(study: StudyFolder) -> None:
    file = study.output / "mlflow.db"
    file.write_text("no database, but long enough to be one" * 100)
    with pytest.raises(StudyError, match=r"cannot be read \(.*file is not a database"):
        open_store(study.tracking_uri, study)
    file.unlink()
    change(file, "CREATE TABLE notes (text)")
    with pytest.raises(StudyError, match="holds something else; name another file"):
        open_store(study.tracking_uri, study)
    file.unlink()
    optuna.create_study(storage=study.tracking_uri)
    with pytest.raises(StudyError, match="holds another program's tables; name a database of its"):
        open_store(study.tracking_uri, study)
    file.unlink()
    file.mkdir()
    with pytest.raises(StudyError, match="must be sqlite:///FILE"):
        open_store(study.tracking_uri, study)


def test_a_file_that_cannot_be_written_is_one_line(study: StudyFolder) -> None:
    for uri, line in {
        f"sqlite:///{study.output}/none/x.db": f"cannot write {study.output}/none/x.db",
        "sqlite://": "must be sqlite:///FILE",
        "sqlite:///:memory:": "must be sqlite:///FILE",
    }.items():
        with pytest.raises(StudyError, match=line):
            open_store(uri, study)


def test_a_driver_that_is_missing_is_named_with_its_extra(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError) as refused:
        open_store("postgresql://me:secret@127.0.0.1:1/x", study)
    assert str(refused.value) == (
        "MLflow at postgresql://me:***@127.0.0.1:1/x needs the package psycopg: "
        "uv run --extra postgres …"
    )


def test_a_url_that_is_none_is_one_line_without_its_password(study: StudyFolder) -> None:
    with pytest.raises(StudyError, match="is no URL of a database") as refused:
        open_store("postgresql://me:secret@127.0.0.1:port/x", study)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["my%20runs", "run?1", "100%25", "a b", "ü#1", "a@b:c", "%"])
def test_an_output_of_any_name_has_its_own(tmp_path: Path, empty_database: Path, name: str) -> None:
    study = StudyFolder(tmp_path / name, "s")
    study.path.mkdir(parents=True)
    shutil.copy(empty_database, study.output / "mlflow.db")
    finished(study, 1)
    assert deliver(study).trouble == ""
    assert len(content(study)["0"]["files"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == [name]
    optuna.create_study(storage=study.storage_uri)
    assert (study.path / "optuna.db").is_file()
    names = {path.name for path in study.output.iterdir()}
    assert names == {"s", "artifacts", "mlflow", "mlflow.db", ".mlflow.db.lock"}
