from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest
import ray
from sqlalchemy import create_engine, text

from guard.errors import StudyError
from tune import places
from tune.places import full_disk, held, retrying, sqlite_uri, told, typed, usable_folder

ODD = (
    "my runs",
    "my%20runs",
    "run?1",
    "100%25",
    "a#b",
    "{x}",
    "[bold]x",
    "a+b",
    "ü",
    "a&b=c;d",
    "a\u3000b",
)


@pytest.mark.parametrize("name", ODD)
def test_a_databases_url_means_the_file_whatever_its_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "optuna.db"
    file.parent.mkdir()
    with create_engine(sqlite_uri(file)).begin() as connection:
        connection.execute(text("create table made (x integer)"))
    with sqlite3.connect(file) as database:
        assert database.execute("select name from sqlite_master").fetchall() == [("made",)]
    assert [path.name for path in tmp_path.rglob("*")] == [name, "optuna.db"]
    assert sqlite_uri(file).format(SCHEMA_VERSION=12) == sqlite_uri(file)  # as Optuna reads it


def test_a_plain_path_is_its_own_url() -> None:
    assert sqlite_uri(Path("/a/my runs/o.db")) == "sqlite:////a/my runs/o.db"


def test_a_typed_path_is_absolute_and_knows_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert typed("--output", "~/runs") == Path("/home/me/runs")
    assert typed("--output", "runs") == Path.cwd() / "runs"
    assert typed("--output", "a/~/s3:") == Path.cwd() / "a/~/s3:"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://bucket/x", "must be a path in a file system; s3:// is not supported, got 's3://"),
        ("file:///x", "file:// is not supported"),
        ("a\0b", r"must be a path in UTF-8, in one line, got 'a\x00b'"),
        ("a\nb", r"got 'a\nb'"),
        ("a\udcffb", r"got 'a\udcffb'"),
        ("", "got ''"),
        ("~nobody-at-all/x", "there is no such home folder, got '~nobody-at-all/x'"),
    ],
)
def test_what_is_no_path_is_one_line(given: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        typed("--output", given)
    assert str(caught.value).startswith("--output: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_in_the_way_of_a_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    assert usable_folder("--output", tmp_path / "new" / "er") == tmp_path / "new" / "er"
    with pytest.raises(
        StudyError, match=r"--output: cannot write in .*file/s: .*file is no folder"
    ):
        usable_folder("--output", tmp_path / "file" / "s")
    with pytest.raises(StudyError, match=r"link is a link to gone, which is not there"):
        usable_folder("--output", tmp_path / "link" / "s")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(StudyError, match=rf"cannot write in .*new: {tmp_path} must not be written"):
        usable_folder("--export", tmp_path / "new")


def test_a_folder_is_held_once_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "s") as warning:
        assert warning == ""
        with pytest.raises(StudyError, match="s is running already"), held(tmp_path / "s"):
            pass
    with held(tmp_path / "s"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path) as warning:
        assert f"the file system of {tmp_path} has no locks ({os.strerror(number)})" in warning


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"--output: cannot write in .*file/s"):
        with held(tmp_path / "file" / "s"):
            pass


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that are made; no time passes but in them."""
    made: list[float] = []
    monkeypatch.setattr(places.time, "sleep", made.append)
    monkeypatch.setattr(places.time, "monotonic", lambda: sum(made))
    return made


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/out/s/x.json")


def test_a_brief_refusal_to_write_is_outlived(pauses: list[float]) -> None:
    left = [refused(errno.EACCES)] * 6

    def write() -> str:
        if left:
            raise left.pop()
        return "written"

    assert retrying(write, Path("/out")) == "written"
    assert len(pauses) == 6 and sum(pauses) < 12 and max(pauses) <= 3


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, "/out is full (No space left on device); what is done is kept: make room"),
        (errno.EDQUOT, "/out is full (Disk quota exceeded); what is done is kept"),
        (errno.EROFS, "/out/s/x.json: Read-only file system; what is done is kept: the same comm"),
    ],
)
def test_a_lasting_refusal_is_one_line_after_half_a_minute(
    number: int, line: str, pauses: list[float]
) -> None:
    def write() -> None:
        raise refused(number)

    with pytest.raises(StudyError) as caught:
        retrying(write, Path("/out"))
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert 25 < sum(pauses) <= 30


def test_a_full_disk_is_found_behind_what_wraps_it() -> None:
    full = refused(errno.ENOSPC)
    wrapped = ray.exceptions.RayTaskError("work", "trace", full)
    assert full_disk(full) is full
    assert full_disk(ray.exceptions.RayTaskError("more", "trace", wrapped)) is full
    assert full_disk(wrapped.as_instanceof_cause()) is full
    assert full_disk(refused(errno.EACCES)) is None
    assert full_disk(ValueError("full")) is None


def test_an_error_without_a_place_is_told_of_the_nearest() -> None:
    assert told(OSError(errno.EIO, "Input/output error"), Path("/here")).startswith("/here: Input")
