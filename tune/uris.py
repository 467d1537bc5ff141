"""URIs of MLflow: what they name, and how they may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from guard.errors import StudyError
from tune.mounts import is_on_network

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https")

SERVER_USER = re.compile(r"(?P<scheme>https?://)[^\s/'\"]*@", re.I)
USER = re.compile(
    r"(?P<scheme>\b(?!https?:)[a-z][a-z0-9+.-]*://)"
    r"(?P<user>[^\s:/@'\"]*)(?P<password>:[^\s'\"]*)?@",
    re.I,
)
SECRET = re.compile(r"(?P<name>[?&]\w*(?:password|passwd|pwd|token|secret)\w*=)[^\s&'\"]*", re.I)


def redacted(text: str) -> str:
    """The text without the passwords in its URIs: `postgresql://user:***@host/db`."""
    text = SERVER_USER.sub(r"\g<scheme>***@", text)
    text = USER.sub(_without_password, text)
    return SECRET.sub(r"\g<name>***", text)


def passwordless(uri: str) -> str:
    """The URI without its password, which it may be opened with if that is elsewhere (PGPASSWORD,
    .pgpass)."""
    shown = redacted(uri).replace(":***@", "@")
    return re.sub(r"(?<=[?&])\w+=\*\*\*&?", "", shown).rstrip("?&")


STORAGES: Mapping[str, str] = {
    "postgresql": r"//.+",
    "mysql": r"//.+",
    "sqlite": r"///.+",
    "journal": r"///.+",
    "grpc": r"//[^/@]+:\d+/?",
}
"""Kinds of Optuna's storages by scheme: what follows it and its colon."""


def check_storage_url(url: str) -> None:
    """Raises StudyError for what is no place of an Optuna storage."""
    kind = scheme(url)
    if kind not in STORAGES or not re.fullmatch(STORAGES[kind], url.partition(":")[2]):
        raise StudyError(
            "search.storage: must be postgresql://…, mysql+pymysql://…, grpc://HOST:PORT, "
            f"journal:///FILE or sqlite:///FILE, got {redacted(url)!r}"
        )
    file = Path(url.partition(":///")[2]).absolute()
    if kind == "sqlite" and is_on_network(file):
        raise StudyError(
            f"search.storage: SQLite is not safe on a network's file system, got {url!r}; "
            f"journal://{file} is"
        )


def from_anywhere(url: str) -> str:
    """The URL of a storage, of an SQLite file by its absolute path: SQLAlchemy reads
    `sqlite:///FILE` from where the process is."""
    head, mark, file = url.partition(":///")
    if scheme(url) != "sqlite" or file.startswith("/"):
        return url
    return f"{head}{mark}{Path(file).absolute()}"


EXTRAS: Mapping[str, str] = {
    "postgresql": "uv run --extra postgres …",
    "mysql": "uv run --extra mysql …, and the URI begins with mysql+pymysql://",
    "grpc": "uv run --extra grpc …",
}
"""How the project brings what a scheme needs."""


def lacking(uri: str, error: ImportError) -> str:
    """In words which package the URI needs, and where it comes from."""
    extra = EXTRAS.get(scheme(uri))
    return f"needs the package {error.name}" + (f": {extra}" if extra else "")


def _without_password(found: re.Match[str]) -> str:
    hidden = ":***" if found["password"] else ""
    return f"{found['scheme']}{found['user']}{hidden}@"


def is_database(uri: str) -> bool:
    """Whether SQLAlchemy opens it, and not a server."""
    return scheme(uri) in DATABASES


def scheme(uri: str) -> str:
    """Without the driver: of "postgresql+psycopg://…" it is "postgresql"."""
    return uri.partition("://")[0].partition("+")[0].lower() if "://" in uri else ""


def check_tracking_uri(uri: str, source: str) -> None:
    """Raises StudyError, naming the source of the URI, if it is none of MLflow's, or if its user
    or password would have to be percent-encoded."""
    if scheme(uri) not in (*DATABASES, *SERVERS):
        kinds = ", ".join(f"{name}://…" for name in DATABASES[1:])
        shown = redacted(uri)
        raise StudyError(f"{source}: must be sqlite:///FILE, {kinds} or http(s)://…, got {shown!r}")
    if scheme(uri) == "sqlite":
        return
    place = uri.partition("://")[2].partition("?")[0]
    user = (place.partition("/")[0] if scheme(uri) in SERVERS else place).rpartition("@")[0]
    if re.search(r"[\s@'\"]", user):
        raise StudyError(
            f"{source}: spaces, quotes and '@' in its user and password must be written %20, %27, "
            "%22 and %40"
        )
