"""What a study needs of an object store: whole files below a prefix such as s3://bucket/prefix.

The client is pyarrow's, which also speaks to gs:// and takes file:// for a plain folder. A file
that is written is there as a whole or not at all. Credentials are the environment's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guard.errors import DataError, StudyError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "file")
BLOCK = 2**22
UNFINISHED = ".unfinished-"
LAB = "robust-distillation-lab"
CACHE = "GUARD_CACHE"
"""Environment variable: where this machine keeps its copies."""


def is_uri(place: str) -> bool:
    """Whether a place is one of an object store, and no path."""
    return re.match(rf"({'|'.join(SCHEMES)})://", place) is not None


@dataclass(frozen=True)
class Stored:
    """A file of an object store."""

    num_bytes: int
    written: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Objects:
    """The files below a prefix. Every method raises OSError for a store that refuses or is away."""

    uri: str
    """With options of the client's after a question mark: `endpoint_override`, `region`,
    `scheme`."""

    def __str__(self) -> str:
        return self.uri.partition("?")[0]

    def below(self, name: str) -> Objects:
        head, mark, options = self.uri.partition("?")
        return Objects(f"{head.rstrip('/')}/{name}{mark}{options}")

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        return b"".join(self._blocks(name))

    def write(self, name: str, content: bytes) -> None:
        self._write(name, [content])

    def upload(self, source: Path, name: str) -> None:
        with source.open("rb") as file:
            self._write(name, iter(lambda: file.read(BLOCK), b""))

    def download(self, name: str, target: Path) -> None:
        """Raises FileNotFoundError."""
        system, base = _opened(self.uri)
        with system.open_input_stream(f"{base}/{name}") as source:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while block := source.read(BLOCK):
                    file.write(block)

    def sha256(self, name: str) -> str:
        """Of a file's content, in hexadecimal. Raises FileNotFoundError."""
        found = hashlib.sha256()
        for block in self._blocks(name):
            found.update(block)
        return found.hexdigest()

    def files(self) -> dict[str, Stored]:
        """Every file, by its name from here on."""
        from pyarrow.fs import FileSelector, FileType

        system, base = _opened(self.uri)
        every = system.get_file_info(FileSelector(base, allow_not_found=True, recursive=True))
        return {
            info.path[len(base) + 1 :]: Stored(info.size, info.mtime_ns / 1e9)
            for info in every
            if info.type == FileType.File and not info.base_name.startswith(UNFINISHED)
        }

    def remove(self, name: str) -> None:
        """If it is there."""
        system, base = _opened(self.uri)
        with contextlib.suppress(FileNotFoundError):
            system.delete_file(f"{base}/{name}")

    def rename(self, name: str, other: str) -> None:
        """Raises FileNotFoundError."""
        system, base = _opened(self.uri)
        system.move(f"{base}/{name}", f"{base}/{other}")

    def _blocks(self, name: str) -> Iterator[bytes]:
        system, base = _opened(self.uri)
        with system.open_input_stream(f"{base}/{name}") as file:
            while block := file.read(BLOCK):
                yield block

    def _write(self, name: str, blocks: Iterable[bytes]) -> None:
        system, base = _opened(self.uri)
        target = f"{base}/{name}"
        place = target
        if system.type_name == "local":  # objects appear when they are complete, files before
            folder, _, last = target.rpartition("/")
            system.create_dir(folder, recursive=True)
            place = f"{folder}/{UNFINISHED}{secrets.token_hex(4)}-{last}"
        with system.open_output_stream(place) as file:
            for block in blocks:
                file.write(block)
        if place != target:
            system.move(place, target)


@functools.lru_cache(maxsize=64)
def _opened(uri: str) -> tuple[FileSystem, str]:
    """The client of a URI, and the path there. Raises DataError."""
    from pyarrow.fs import FileSystem

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    given = uri.partition("?")[2]
    if uri.startswith("s3://") and region and "region=" not in given:  # else it is asked for
        uri += f"{'&' if given else '?'}region={region}"
    try:
        system, base = FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{uri}: is no place of an object store ({error})") from None
    return system, str(base).rstrip("/")


def check_uri(flag: str, uri: str) -> None:
    """Raises StudyError for a URI that is no plain prefix, or has a password in it."""
    plain = re.match(r"(\w+)://(.*)", uri.partition("?")[0])
    parts = plain[2].strip("/").split("/") if plain else []
    if not parts or not all(parts) or any(part in (".", "..") for part in parts):
        raise StudyError(f"{flag}: must be a prefix such as s3://bucket/runs, got {uri!r}")
    if "@" in parts[0]:
        raise StudyError(
            f"{flag}: keys belong in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or "
            "in the client's own files, not in the URI"
        )
    try:
        _opened(uri)
    except (DataError, OSError) as error:
        raise StudyError(f"{flag}: {error}") from None


def copy_of(uri: str) -> Path:
    """Where this machine keeps its copy of what lies there: below $GUARD_CACHE, or the user's cache
    folder, or else the one for temporary files. It may be deleted when no study is running."""
    given = os.environ.get(CACHE)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    fitting = (given, home) if given else (home, tempfile.gettempdir())
    place = next((place for place in fitting if place and writable(place)), fitting[-1])
    scheme, _, rest = uri.partition("://")
    path, mark, options = rest.partition("?")
    if mark:
        scheme += f"-{hashlib.sha256(options.encode()).hexdigest()[:8]}"
    return Path(str(place), LAB, scheme, *path.strip("/").split("/")).absolute()


def writable(place: str) -> bool:
    try:
        os.makedirs(place, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK | os.X_OK)
