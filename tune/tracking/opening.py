"""How MLflow at a URI is opened: made if it is not there, refused in one line if it cannot be."""

from __future__ import annotations

import logging
import os
import time

from guard.errors import StudyError
from tune.causes import causes, reason
from tune.results.folder import StudyFolder
from tune.tracking import database
from tune.tracking.errors import refusal
from tune.tracking.options import TrackingConfig
from tune.tracking.store import Store
from tune.uris import is_database

STANDARD = TrackingConfig()
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # `tracker` tries again, and says so
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it asks for each run to print its address
    "PGCONNECT_TIMEOUT": "10",
}
"""Of the environment, where a user has set nothing else."""
ILL_S, ILL_PAUSE_S = 5.0, 0.5
"""How long a server that answers with errors may take to become well, at the start."""


def settle_mlflow() -> None:
    """Quiet: it logs the traces of its errors, which are told in a line."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  sets the level of its loggers

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)


def open_store(uri: str, folder: StudyFolder, options: TrackingConfig = STANDARD) -> Store:
    """MLflow, ready for the study's runs; a database that is not there is made. Raises StudyError,
    in one line, for a place that does not answer, is refused, or is of another MLflow."""
    settle_mlflow()
    started = time.monotonic()
    while True:
        try:
            if is_database(uri):
                database.prepare(uri)
            store = Store(uri, folder, options)
            store.follow_output(store.experiment())
            if not is_database(uri):
                store.check_age()
            return store
        except StudyError:
            raise
        except Exception as error:
            is_away = any(is_of_network(cause) for cause in causes(error))
            if is_away or not is_ill(error) or time.monotonic() - started > ILL_S:
                what = "does not answer" if is_away else "answers with an error"
                raise refusal(uri, f"{what} ({reason(error)})") from None
        time.sleep(ILL_PAUSE_S)


def is_of_network(error: BaseException) -> bool:
    """Whether it is the system's, not one that a library made of it."""
    return isinstance(error, TimeoutError) or (isinstance(error, OSError) and bool(error.errno))


def is_ill(error: Exception) -> bool:
    """Whether a server has answered with an error of its own."""
    status: int = getattr(error, "get_http_status_code", lambda: 0)()
    return status >= 500
