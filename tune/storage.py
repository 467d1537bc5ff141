"""A search's Optuna storage, optuna.db in its folder: found whatever its study is named."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from collections.abc import Iterator

import optuna
from sqlalchemy.exc import SQLAlchemyError

from guard.errors import StudyError
from tune.causes import causes
from tune.results.folder import StudyFolder

FILE = "optuna.db"


def opened(folder: StudyFolder) -> optuna.Study:
    """The study in the folder's storage, made if there is none. Raises StudyError for a file that
    holds none and cannot."""
    found = stored(folder)
    if found is not None:
        return found
    with understood(folder):
        return optuna.create_study(
            storage=folder.storage_uri,
            study_name=folder.name,
            directions=["maximize", "maximize"],
            load_if_exists=True,
        )


def stored(folder: StudyFolder) -> optuna.Study | None:
    """The study in the folder's storage; None before there is one. The folder may have been
    renamed since, so its study may have another name. Raises StudyError for a file that is no
    storage of this version."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    file = folder.path / FILE
    if not file.is_file() or file.stat().st_size == 0:
        return None
    with understood(folder):
        storage = optuna.storages.RDBStorage(folder.storage_uri)
        names = optuna.get_all_study_names(storage)
        if not names:
            return None
        name = folder.name if folder.name in names else names[-1]
        return optuna.load_study(study_name=name, storage=storage)


def left_out(folder: StudyFolder) -> list[str]:
    """In a line why the storage, if there is one, cannot be read."""
    try:
        stored(folder)
    except StudyError as error:
        return [str(error)]
    return []


@contextlib.contextmanager
def understood(folder: StudyFolder) -> Iterator[None]:
    """What goes wrong with a folder's storage inside, as a StudyError in one line."""
    file = folder.path / FILE
    try:
        yield
    except RuntimeError as error:  # Optuna's, for another version's tables
        if "optuna storage upgrade" in str(error):
            advice = f"`optuna storage upgrade --storage '{folder.storage_uri}'` renews it"
            raise StudyError(f"{file}: is an older Optuna's; {advice}") from None
        if "updating optuna" in str(error):
            raise StudyError(f"{file}: is a newer Optuna's than this one") from None
        raise
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, AssertionError) as error:
        raise StudyError(_told(folder, error)) from None


def _told(folder: StudyFolder, error: BaseException) -> str:
    origin = next((cause for cause in causes(error) if isinstance(cause, sqlite3.Error)), error)
    file, reason = folder.path / FILE, " ".join(str(origin).split()) or "it is damaged"
    if "full" in reason:
        return f"{folder.output} is full ({reason}); make room, and the same command goes on"
    if "locked" in reason or "readonly" in reason or "unable to open" in reason:
        return f"{file}: {reason}; what is done is kept: the same command goes on"
    return (
        f"{file}: is no storage of Optuna ({reason}); move it away, and the study's own command "
        "makes it again from the records in trials/"
    )
