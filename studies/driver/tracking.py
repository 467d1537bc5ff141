"""Where a study is tracked, and when that is opened: loading MLflow takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from studies.driver.request import Request
from studies.reporting.console import Terminal
from tune.mounts import is_on_network

if TYPE_CHECKING:
    from tune.tracking.store import Store


UNSAFE = "is SQLite on a network's file system, where its locks cannot be relied on"


def unsafe_files(request: Request) -> Iterator[str]:
    """A line for each database of a study that lies, or would lie, where it is not safe."""
    folder = request.folder
    if not is_on_network(folder.output):
        return
    if not request.tracking:
        yield f"{folder.output / 'mlflow.db'} {UNSAFE}: give --tracking-uri"
    file = folder.path / "optuna.db"
    if file.exists():
        yield f"{file} {UNSAFE}: move it away, and optuna.journal is made from the records"


def named_store(console: Terminal, request: Request) -> Store | None:
    """The MLflow that the user names; None for the output's own, which is opened when it is needed.
    Raises StudyError for one that cannot be used."""
    return opened_store(console, request) if request.tracking else None


def known_store(console: Terminal, request: Request) -> Store | None:
    """The output's own database, so that one which cannot be used is refused before anything is
    started; None where it is yet to be made. Raises StudyError."""
    is_there = (request.folder.output / "mlflow.db").exists()
    return opened_store(console, request) if is_there else None


def opened_store(console: Terminal, request: Request) -> Store:
    """As `open_store`, and its news are told."""
    from tune.tracking.opening import open_store  # imports MLflow

    store = open_store(request.tracking_uri, request.folder, request.options.tracking)
    for line in store.news:
        console.warn(line)
    return store
