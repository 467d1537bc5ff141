from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from guard.errors import StudyError
from tune import uris
from tune.places import sqlite_uri
from tune.uris import (
    check_storage_url,
    check_tracking_uri,
    from_anywhere,
    passwordless,
    redacted,
)

PATHS = ["/a b/x", "/a%20b/x", "/r?1/x", "/ü#/x", "/a@b:c/x", "/100%25/x", "/%/?x=1"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_comes_back_from_its_url(path: str) -> None:
    url = make_url(sqlite_uri(Path(path)))
    assert (url.database, url.host, url.username, dict(url.query)) == (path, None, None, {})
    assert url.get_backend_name() == "sqlite"


def test_a_plain_path_has_a_plain_url() -> None:
    assert sqlite_uri(Path("/a b/mlflow.db")) == "sqlite:////a b/mlflow.db"


REDACTED = {
    "postgresql://me:secret@host/db": "postgresql://me:***@host/db",
    "postgresql+psycopg://me:se/c?r:et@host:5/db": "postgresql+psycopg://me:***@host:5/db",
    "postgresql://me:se@cret@host/db": "postgresql://me:***@host/db",
    "postgresql://me@host/db": "postgresql://me@host/db",
    "postgresql://host/db?user=me&password=secret&x=1": "postgresql://host/db?user=me&password=***&x=1",
    "mysql://host/x?sslpassword=secret": "mysql://host/x?sslpassword=***",
    "http://me:secret@host:5000/x": "http://***@host:5000/x",
    "https://secret@host": "https://***@host",
    "http://host:5000/a@b": "http://host:5000/a@b",
    "sqlite:////a/b@c/d.db": "sqlite:////a/b@c/d.db",
    "run --tracking-uri 'mysql://me:secret@h/d' --set a=b@c": "run --tracking-uri "
    "'mysql://me:***@h/d' --set a=b@c",
    "API request to http://me:secret@h/x failed: http://me:secret@h/x": "API request to "
    "http://***@h/x failed: http://***@h/x",
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), REDACTED.items())
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///x.db",
        "sqlite+pysqlite:////a@b c/x",
        "postgresql://me:se%40cret@host/db",
        "mysql+pymysql://host/x",
        "https://me:secret@host/x@y",
    ],
)
def test_a_place_of_mlflows_is_taken(uri: str) -> None:
    check_tracking_uri(uri, "--tracking-uri")


@pytest.mark.parametrize(
    "uri", ["mlruns", "", "file:///mlruns", "postgres://me:secret@host/db", "s3://bucket"]
)
def test_another_place_is_one_line_without_its_password(uri: str) -> None:
    with pytest.raises(StudyError) as refused:
        check_tracking_uri(uri, "SOURCE")
    assert str(refused.value).startswith("SOURCE: must be sqlite:///FILE, postgresql://…, ")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("password", ["se@cret", "se cret", "se'cret", 'se"cret'])
def test_a_password_that_breaks_a_uri_is_one_line_without_it(password: str) -> None:
    for scheme in ("postgresql", "http"):
        with pytest.raises(StudyError, match=r"must be written %20, %27, %22 and %40") as refused:
            check_tracking_uri(f"{scheme}://me:{password}@host/db", "--tracking-uri")
        assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://me:se%20cret@host/db", "postgresql://me@host/db"),
        ("postgresql://me@host/db?sslmode=require", "postgresql://me@host/db?sslmode=require"),
        ("postgresql://host/db?password=secret&x=1", "postgresql://host/db?x=1"),
        ("postgresql://host/db?x=1&password=secret", "postgresql://host/db?x=1"),
        ("journal:////a/b@c.log", "journal:////a/b@c.log"),
    ],
)
def test_a_uri_is_kept_without_its_password(uri: str, expected: str) -> None:
    assert passwordless(uri) == expected


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@h/x",
        "mysql+pymysql://h/x",
        "sqlite:////x",
        "journal:///x",
        "grpc://h:13000",
    ],
)
def test_a_place_of_optunas_is_taken(url: str) -> None:
    check_storage_url(url)


@pytest.mark.parametrize(
    "url", ["optuna.db", "redis://h", "grpc://h", "grpc://h:x", "journal://x", "s3://b/x", "sqlite"]
)
def test_no_place_of_optunas_is_one_line(url: str) -> None:
    with pytest.raises(StudyError, match=r"search\.storage: must be postgresql") as caught:
        check_storage_url(url)
    assert "\n" not in str(caught.value)


def test_sqlite_on_a_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uris, "is_on_network", lambda path: True)
    line = r"SQLite is not safe on .*, got 'sqlite:////shared/o.db'; journal:///shared/o.db is"
    with pytest.raises(StudyError, match=line):
        check_storage_url("sqlite:////shared/o.db")
    check_storage_url("journal:///shared/o.db")


def test_a_file_is_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_anywhere("sqlite:///o.db") == f"sqlite:///{tmp_path}/o.db"
    for url in ("sqlite:////x/o.db", "journal:///o.log", "postgresql://h/x"):
        assert from_anywhere(url) == url
