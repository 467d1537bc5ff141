"""Places on a disk: as people type them, as a database's URL, held by one study, out of room."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from guard.data.names import UNPRINTABLE
from guard.errors import StudyError
from tune.causes import causes

Made = TypeVar("Made")
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
RETRY_FOR_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 0.1, 3.0


def typed(flag: str, text: str) -> Path:
    """The absolute path that someone typed after a flag; ~ is a home folder.

    Raises StudyError for what names no place in a file system.
    """
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text)
    if scheme:
        raise StudyError(
            f"{flag}: must be a path in a file system; {scheme[0]} is not supported, got {text!r}"
        )
    if not text.strip() or any(unicodedata.category(letter) in UNPRINTABLE for letter in text):
        raise StudyError(f"{flag}: must be a path in UTF-8, in one line, got {text!r}")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise StudyError(f"{flag}: there is no such home folder, got {text!r}") from None


def usable_folder(flag: str, path: Path) -> Path:
    """The path, if it is a folder that can be written, or can be made.

    Raises StudyError, which names the part of it that is in the way.
    """
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if nearest.is_symlink() and not nearest.exists():
        target = os.readlink(nearest)
        raise StudyError(f"{flag}: {nearest} is a link to {target}, which is not there")
    if not nearest.is_dir():
        raise StudyError(f"{flag}: cannot write in {path}: {nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StudyError(f"{flag}: cannot write in {path}: {nearest} must not be written")
    return path


def sqlite_uri(path: Path) -> str:
    """The URL of an SQLite file, as SQLAlchemy reads it: what has a meaning in a URL is escaped, or
    in a format, which Optuna takes it for.

    One with escapes names the driver: MLflow makes the parent folder of what follows a plain
    `sqlite:///` as it is written there, escapes and all.
    """
    plain = str(path)
    escaped = "".join(f"%{ord(c):02X}" if c in "%?{}" else c for c in plain)
    return f"{'sqlite' if escaped == plain else 'sqlite+pysqlite'}:///{escaped}"


def full_disk(error: BaseException) -> OSError | None:
    """The error of a disk without room that an error is, or that Ray or another one wraps."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in FULL:
            return cause
    return None


def told(error: OSError, place: Path) -> str:
    """In a line: what an error of the file system at a place (or nearer, if the error knows it)
    means for a study."""
    if error.errno in FULL:
        return (
            f"{place} is full ({error.strerror}); what is done is kept: make room, and the same "
            "command goes on"
        )
    where = error.filename or place
    return f"{where}: {error.strerror or error}; what is done is kept: the same command goes on"


def retrying(write: Callable[[], Made], place: Path) -> Made:
    """What `write` returns, tried again for half a minute as long as the file system refuses.

    Raises StudyError (`told`) after that.
    """
    pause, deadline = FIRST_PAUSE_S, time.monotonic() + RETRY_FOR_S
    while True:
        try:
            return write()
        except OSError as error:
            if time.monotonic() + pause > deadline:
                raise StudyError(told(error, place)) from None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def is_held(folder: Path) -> bool:
    """Whether a study is running in a folder of this machine."""
    if not folder.is_dir():
        return False
    try:
        with held(folder):
            return False
    except StudyError:
        return True


@contextlib.contextmanager
def held(folder: Path) -> Iterator[str]:
    """Make a study's folder and hold it; gives a warning where the file system cannot lock, else
    "". Raises StudyError if another process holds it, or if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("wb")
    except OSError as error:
        raise StudyError(f"--output: cannot write in {folder} ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise StudyError(f"--name: the study {folder} is running already") from None
            yield (
                f"the file system of {folder} has no locks ({error.strerror}): take care that "
                "this study is not started twice at a time"
            )
            return
        yield ""
