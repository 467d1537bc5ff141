from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from servers import Postgres

LONG = ("test_sweep.py", "test_desk.py")
"""They start Ray; first, so that the other files fill the other processes meanwhile."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Nobody tells a test where to track: neither who runs it nor the test before it."""
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        yield


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """MLflow's tables, which take it seconds to make: in this process it does so once."""
    from sqlalchemy import make_url

    from tune.tracking import database
    from tune.tracking.opening import settle_mlflow

    settle_mlflow()
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    database.make_file(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "make", lambda uri: shutil.copy(file, make_url(uri).database))
        yield file


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A server of its own, empty."""
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory() as root:  # its own user may enter it
        server = Postgres(Path(root))
        server.start()
        yield server
        server.stop()
