from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from guard.errors import StudyError
from tune import storage
from tune.results.folder import StudyFolder
from tune.storage import FILE, left_out, opened, stored, understood


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage whose study has one trial."""
    folder = StudyFolder(tmp_path_factory.mktemp("storage"), "first")
    folder.path.mkdir()
    opened(folder).enqueue_trial({"x": 1})
    return folder.path / FILE


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> StudyFolder:
    made = StudyFolder(tmp_path, "first")
    made.path.mkdir()
    shutil.copy(template, made.path)
    return made


def sql(statement: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute(statement)

    return change


def test_a_study_is_found_after_its_folder_was_renamed(folder: StudyFolder) -> None:
    folder.path.rename(folder.output / "second")
    renamed = StudyFolder(folder.output, "second")
    assert len(opened(renamed).trials) == 1
    found = stored(renamed)
    assert found is not None and found.study_name == "first"
    assert optuna.get_all_study_names(renamed.storage_uri) == ["first"]


def test_of_two_studies_the_folder_s_own_is_taken(folder: StudyFolder) -> None:
    directions = ["maximize", "maximize"]
    for name in ("before", "s"):
        optuna.create_study(storage=folder.storage_uri, study_name=name, directions=directions)
    assert opened(folder).study_name == "first"
    folder.path.rename(folder.output / "s")
    assert opened(StudyFolder(folder.output, "s")).study_name == "s"


@pytest.mark.parametrize("is_there", [True, False])
def test_an_empty_storage_is_none_and_is_made(is_there: bool, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    if is_there:
        (folder.path / FILE).touch()
    assert stored(folder) is None and left_out(folder) == []
    assert opened(folder).trials == []


DAMAGES = {
    "is an older Optuna's; `optuna storage upgrade --storage 'sqlite:///": sql(
        "update alembic_version set version_num='v3.0.0.d'"
    ),
    "is a newer Optuna's than this one": sql("update alembic_version set version_num='v9.9.9.a'"),
    "is no storage of Optuna (file is not a database); move it away, and the study's own command": (
        lambda path: path.write_bytes(b"garbage" * 500)
    ),
    "is no storage of Optuna (database disk image is malformed)": (
        lambda path: path.write_bytes(path.read_bytes()[:9000])
    ),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGES.items(), ids=DAMAGES)
def test_a_storage_that_cannot_be_used_is_one_line(
    message: str, damage: Callable[[Path], object], folder: StudyFolder
) -> None:
    damage(folder.path / FILE)
    with pytest.raises(StudyError) as caught, understood(folder):
        opened(folder).get_trials()
    assert str(caught.value).startswith(f"{folder.path / FILE}: {message}")
    assert "\n" not in str(caught.value)


def test_a_storage_that_cannot_be_read_is_left_out_of_a_report(folder: StudyFolder) -> None:
    (folder.path / FILE).write_bytes(b"garbage" * 500)
    assert left_out(folder)[0].startswith(f"{folder.path / FILE}: is no storage of Optuna")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("database or disk is full", "{output} is full (database or disk is full); make room"),
        ("database is locked", "{file}: database is locked; what is done is kept: the same"),
    ],
)
def test_a_storage_that_cannot_be_written_is_one_line(
    reason: str, message: str, folder: StudyFolder
) -> None:
    with pytest.raises(StudyError) as caught, understood(folder):
        try:
            raise sqlite3.OperationalError(reason)
        except sqlite3.OperationalError as error:
            raise optuna.exceptions.StorageInternalError("An exception\nis raised") from error
    wanted = message.format(output=folder.output, file=folder.path / FILE)
    assert str(caught.value).startswith(wanted)


def test_on_a_network_a_new_search_is_in_a_journal_and_moves_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "is_on_network", lambda path: True)
    folder = StudyFolder(tmp_path, "first")
    folder.path.mkdir()
    opened(folder).enqueue_trial({"x": 1})
    assert sorted(path.name for path in folder.path.glob("optuna*")) == ["optuna.journal"]
    monkeypatch.setattr(storage, "is_on_network", lambda path: False)
    folder.path.rename(tmp_path / "second")
    found = stored(StudyFolder(tmp_path, "second"))
    assert found is not None and len(found.trials) == 1


def test_a_database_that_is_there_stays_one(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "is_on_network", lambda path: True)
    assert len(opened(folder).trials) == 1
    assert not (folder.path / "optuna.journal").exists()
