"""MLflow's database before MLflow opens it: reached, of this MLflow's schema, and made whole.

MLflow makes and migrates its tables in place, unlocked, whenever it finds some missing; a kill or
a second process in the middle of that leaves a database that it never opens again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tune.causes import first_line
from tune.places import sqlite_uri
from tune.tracking.errors import refusal
from tune.uris import lacking, redacted, scheme

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

CONNECT_TIMEOUT_S = 10
LOCK_NUMBER = 0x6D6C666C6F77  # of PostgreSQL's advisory lock: "mlflow"


def prepare(uri: str) -> None:
    """Raises StudyError, in one line, if the database cannot be reached or is of another MLflow; a
    new one is made, by one process."""
    from sqlalchemy import make_url

    try:
        url = make_url(uri)
    except Exception as error:  # SQLAlchemy's own, or a port that is no number
        raise refusal(uri, f"is no URL of a database ({first_line(error)})") from None
    if scheme(uri) == "sqlite":
        prepare_file(uri, url)
        return
    with connected(uri, url) as connection, locked_database(connection):
        if not is_ready(connection, uri):
            make(uri)


def prepare_file(uri: str, url: URL) -> None:
    file = Path(url.database or "")
    if not url.database or url.database.startswith((":", "file:")) or file.is_dir():
        raise refusal(uri, "must be sqlite:///FILE")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise refusal(uri, f"cannot write {file}")
    with locked_file(file.with_name(f".{file.name}.lock")):
        if not file.exists() or file.stat().st_size == 0:
            make_file(file)
            return
        with connected(uri, url) as connection:
            if not is_ready(connection, uri):
                raise refusal(uri, "holds something else; name another file")


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Held by one process at a time, where the file system has locks."""
    with path.open("wb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def locked_database(connection: Connection) -> Iterator[None]:
    """Held by one process at a time, on PostgreSQL, until the connection is closed."""
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK_NUMBER})
        connection.commit()
    yield


def make_file(file: Path) -> None:
    """A database under another name, which gets its own when it is whole."""
    for left in file.parent.glob(f".{file.name}-*"):
        left.unlink()
    half = file.with_name(f".{file.name}-{os.getpid()}")
    make(sqlite_uri(half))
    os.replace(half, file)


def make(uri: str) -> None:
    """MLflow's tables, in an empty database."""
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


@contextlib.contextmanager
def connected(uri: str, url: URL) -> Iterator[Connection]:
    """A connection of our own: MLflow tries ten times, for minutes, whatever is wrong."""
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    arguments = {"connect_timeout": CONNECT_TIMEOUT_S} if scheme(uri) == "postgresql" else {}
    try:
        connection = create_engine(url, poolclass=NullPool, connect_args=arguments).connect()
    except ImportError as error:
        raise refusal(uri, lacking(uri, error)) from None
    except SQLAlchemyError as error:
        raise refusal(uri, f"cannot be opened ({first_line(error)})") from None
    with connection:
        yield connection


def is_ready(connection: Connection, uri: str) -> bool:
    """Whether this MLflow's tables are there; False where it has yet to make them. Raises
    StudyError for those of another MLflow, or of something else."""
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import inspect
    from sqlalchemy.exc import SQLAlchemyError

    try:
        is_mlflows = "experiments" in inspect(connection).get_table_names()
        found = MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
    except SQLAlchemyError as error:
        raise refusal(uri, f"cannot be read ({first_line(error)})") from None
    migrates_at_once = connection.dialect.name == "postgresql"
    if found is None and (migrates_at_once or not is_mlflows):
        return False
    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if found == scripts.get_current_head():
        return True
    if not is_mlflows:
        raise refusal(uri, "holds another program's tables; name a database of its own")
    again = "name another place, where the same command writes every run"
    if found is None or found in {script.revision for script in scripts.walk_revisions()}:
        upgrade = f"mlflow db upgrade {shlex.quote(redacted(uri))}"
        raise refusal(
            uri,
            f"was made by an older MLflow, or only half; copy it and run `{upgrade}`, or {again}",
        )
    raise refusal(
        uri, f"was made by a newer MLflow than {mlflow.__version__}; install that one, or {again}"
    )


def move_artifacts(uri: str, experiment_id: str, old: str, new: str) -> None:
    """Let the artifacts of an experiment in a SQLite file, of its runs and models, be where its
    output lies now. MLflow stores their places as absolute URIs and changes none."""
    from sqlalchemy import make_url

    with contextlib.closing(sqlite3.connect(str(make_url(uri).database), timeout=60)) as database:
        with database:
            for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, experiment_id, len(old) + 1, f"{old}/"),
                )
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (new, experiment_id),
            )
