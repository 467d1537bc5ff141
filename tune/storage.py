"""A search's Optuna storage: optuna.db in its folder, on a file system of another machine (where
SQLite's locks cannot be relied on) optuna.journal, or where `search.storage` says.

A folder whose search is elsewhere says so in optuna.json, without a password, so that its report
finds it. A study there has a name that no other folder's has.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from guard.errors import StudyError
from tune.causes import causes, reason
from tune.mounts import is_on_network
from tune.results.folder import StudyFolder, write_atomically
from tune.results.reading import read_object
from tune.uris import check_storage_url, lacking, passwordless, redacted, scheme

FILE, JOURNAL, ELSEWHERE = "optuna.db", "optuna.journal", "optuna.json"
FILES = (FILE, JOURNAL, ELSEWHERE)
"""In a study's folder, of which one or none is there."""
ANSWER_TIMEOUT_S = 10.0
DIRECTIONS = [optuna.study.StudyDirection.MAXIMIZE] * 2
GOES_ON = "what is done is kept: the same command goes on"


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where a search's storage is."""

    url: str
    study: str
    """Its name there."""

    @property
    def shown(self) -> str:
        return redacted(self.url)


def relational(url: str) -> BaseStorage:
    """A database, whose connections are tried before they are used again."""
    ping = {} if scheme(url) == "sqlite" else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=ping)


def journal(url: str) -> BaseStorage:
    """A file that is only added to, also safe on NFS."""
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

    file = url.partition("://")[2]
    return JournalStorage(JournalFileBackend(file, JournalFileOpenLock(file)))


def proxied(url: str) -> BaseStorage:
    """A server of Optuna's (`optuna.storages.run_grpc_proxy_server`)."""
    from optuna.storages import GrpcStorageProxy

    host, _, port = url.partition("://")[2].rstrip("/").rpartition(":")
    made = GrpcStorageProxy(host=host, port=int(port))
    made.wait_server_ready(ANSWER_TIMEOUT_S)
    return made


KINDS: Mapping[str, Callable[[str], BaseStorage]] = {
    "postgresql": relational,
    "mysql": relational,
    "sqlite": relational,
    "journal": journal,
    "grpc": proxied,
}


def opened(folder: StudyFolder, url: str = "") -> optuna.Study:
    """The study in the folder's storage, made if there is none; url: where `search.storage` wants
    it. Raises StudyError for a storage that holds none and cannot."""
    if url:
        _move(folder, url)
    found = stored(folder, url)
    if found is not None:
        return found
    place = location(folder, url)
    with understood(folder):
        return optuna.create_study(
            storage=_storage(place.url),
            study_name=place.study,
            directions=DIRECTIONS,
            load_if_exists=True,
        )


def stored(folder: StudyFolder, url: str = "") -> optuna.Study | None:
    """The study in the folder's storage; None before there is one. The folder may have been
    renamed since, so its study may have another name. url: with what optuna.json does not say.

    Raises StudyError for what is no storage of this version, or does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    place, file = location(folder, url), own_file(folder)
    is_own = place.url == own_url(folder)
    if is_own and (not file.is_file() or file.stat().st_size == 0):
        return None
    with understood(folder):
        storage = _storage(place.url)
        names = optuna.get_all_study_names(storage)
        if place.study in names:
            return optuna.load_study(study_name=place.study, storage=storage)
        if not is_own or not names:
            return None
        return optuna.load_study(study_name=names[-1], storage=storage)


def own_file(folder: StudyFolder) -> Path:
    """What the storage in the folder is, or will be: a journal where SQLite is not safe."""
    file, journal_file = folder.path / FILE, folder.path / JOURNAL
    is_journal = not file.exists() and (journal_file.exists() or is_on_network(folder.path))
    return journal_file if is_journal else file


def own_url(folder: StudyFolder) -> str:
    file = own_file(folder)
    return f"journal://{file}" if file.name == JOURNAL else folder.storage_uri


def location(folder: StudyFolder, url: str = "") -> Location:
    """Where the folder's storage is. url: with what optuna.json does not say. Raises StudyError for
    an optuna.json that does not say it."""
    file = folder.path / ELSEWHERE
    try:
        values = read_object(file)
        known = Location(url=str(values["url"]), study=str(values["study"]))
        check_storage_url(known.url)
    except FileNotFoundError:
        return Location(url=own_url(folder), study=folder.name)
    except (ValueError, KeyError, StudyError) as error:
        raise StudyError(
            f"{file}: does not say where the study's storage is ({error}); remove it, and the "
            "study's own command makes one from the records in trials/"
        ) from None
    return Location(url=url or known.url, study=known.study)


def _move(folder: StudyFolder, url: str) -> None:
    """Say where the storage is from now on. What another one has is in the records too."""
    if location(folder).url != passwordless(url):
        made = Location(url=passwordless(url), study=f"{folder.name}-{secrets.token_hex(4)}")
        write_atomically(folder.path / ELSEWHERE, json.dumps(asdict(made)))


def _storage(url: str) -> BaseStorage:
    return KINDS[scheme(url)](url)


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
    try:
        yield
    except Exception as error:
        line = _told(folder, error)
        if line is None:
            raise
        raise StudyError(line) from None


def _told(folder: StudyFolder, error: Exception) -> str | None:
    """In a line what an error says of the storage; None for one that is not about it."""
    place, file = location(folder), own_file(folder)
    is_own = place.url == own_url(folder)
    name = str(file) if is_own else f"search.storage: {place.shown}"
    if isinstance(error, ImportError):
        return f"{name}: {lacking(place.url, error)}"
    if isinstance(error, RuntimeError) and "optuna storage upgrade" in str(error):
        advice = f"`optuna storage upgrade --storage '{place.shown}'` renews it"
        return f"{name}: is an older Optuna's; {advice}"
    if isinstance(error, RuntimeError) and "updating optuna" in str(error):
        other = "" if is_own else ", or another program's: Optuna and MLflow need a database each"
        return f"{name}: is a newer Optuna's than this one{other}"
    if is_own and (is_refusal(error) or isinstance(error, AssertionError)):
        return _of_file(file, error)
    is_rpc = type(error).__module__.partition(".")[0] == "grpc"
    if not is_own and (is_rpc or is_refusal(error) or isinstance(error, OSError)):
        return f"{name}: {reason(error)}; {GOES_ON}"
    return None


def is_refusal(error: Exception) -> bool:
    """Whether a storage raised it."""
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, SQLAlchemyError | optuna.exceptions.StorageInternalError)


def _of_file(file: Path, error: Exception) -> str:
    origin = next((cause for cause in causes(error) if isinstance(cause, sqlite3.Error)), error)
    said = " ".join(str(origin).split()) or "it is damaged"
    if "full" in said:
        return f"{file.parent.parent} is full ({said}); make room, and the same command goes on"
    if "locked" in said or "readonly" in said or "unable to open" in said:
        return f"{file}: {said}; {GOES_ON}"
    return (
        f"{file}: is no storage of Optuna ({said}); move it away, and the study's own command "
        "makes it again from the records in trials/"
    )
