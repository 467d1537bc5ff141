"""A study whose output is in an object store: this machine's copy of its folder, and who has it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from guard.background import repeating
from guard.errors import StudyError
from guard.objects import Objects, Stored
from tune.places import is_held, retrying, told
from tune.results.folder import StudyFolder
from tune.results.records import FOLDERS

LEASE = ".lease.json"
PUSH_EVERY_S, LEASE_S = 10.0, 90.0
"""How often what is new goes to the object store, and for how long a study is one driver's."""


@contextlib.contextmanager
def brought(folder: StudyFolder, *, alone: bool = True) -> Iterator[None]:
    """Have a study's folder here, as it is in the object store, and bring back what changes, now
    and then and at the end. Nothing to do for a plain folder. alone: no other driver may have the
    study meanwhile; without it, what a driver of this machine has here is left as it is.

    Raises StudyError if another driver has the study, or the object store refuses.
    """
    if folder.objects is None or (not alone and is_held(folder.path)):
        yield
        return
    copy = Copy(folder, folder.objects)
    with copy.leased() if alone else contextlib.nullcontext():
        with said(folder):
            copy.pull()
        try:
            with repeating(copy.keep, PUSH_EVERY_S):
                yield
        finally:
            copy.check_kept()
            with said(folder):
                retrying(copy.push, folder.output)


@contextlib.contextmanager
def said(folder: StudyFolder) -> Iterator[None]:
    """What an object store refuses inside, as a StudyError."""
    try:
        yield
    except OSError as error:
        raise StudyError(told(error, Path(str(folder)))) from None


class Copy:
    """A copy of a study's folder. Every method may raise OSError."""

    def __init__(self, folder: StudyFolder, objects: Objects) -> None:
        self._folder, self._objects = folder, objects
        self._owner = f"{socket.gethostname()}, process {os.getpid()}"
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of change of the files that are in the object store as they are here."""
        self._until = math.inf
        """When the lease ends; without one there is none to renew."""
        self._lost = ""
        """Who has taken the study over, in a line."""

    @contextlib.contextmanager
    def leased(self) -> Iterator[None]:
        """The study is this driver's meanwhile. Raises StudyError if it is another's."""
        with said(self._folder):
            self.take()
        try:
            yield
        finally:
            with said(self._folder):
                self.give_back()

    def take(self) -> None:
        """Make the study this driver's for a while. Raises StudyError if it is another's."""
        owner, until = self._lease()
        left = until - time.time()
        if left > 0 and owner != self._owner:
            raise StudyError(
                f"--name: the study {self._folder} is running already on {owner}; if that has "
                f"died, the study is free in {left:.0f} s"
            )
        self._until = time.time() + LEASE_S
        text = json.dumps({"owner": self._owner, "until": self._until})
        self._objects.write(LEASE, text.encode())

    def _lease(self) -> tuple[str, float]:
        """Whose the study is, and until when."""
        try:
            lease = json.loads(self._objects.read(LEASE))
            return str(lease["owner"]), float(lease["until"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return "", 0.0

    def give_back(self) -> None:
        if self._lease()[0] == self._owner:
            self._objects.remove(LEASE)

    def pull(self) -> None:
        """Have the files here that are there, and no record that is not."""
        self._folder.path.mkdir(parents=True, exist_ok=True)
        there = self._files_there()
        for name, stored in there.items():
            path = self._folder.path / name
            if not _is_as_new(path, stored):
                part = path.with_name(f".{path.name}-{os.getpid()}")
                self._objects.download(name, part)
                os.replace(part, path)
            self._sent[name] = _state(path)
        for path in _files(self._folder.path):
            name = path.relative_to(self._folder.path).as_posix()
            if name not in there and name.partition("/")[0] in FOLDERS.values():
                path.unlink()

    def push(self) -> None:
        """Bring what is new here; records are there already."""
        for path in _files(self._folder.path):
            name = path.relative_to(self._folder.path).as_posix()
            state = _state(path)
            if self._sent.get(name) == state or name.partition("/")[0] in FOLDERS.values():
                continue
            with _steady(path) as file:
                self._objects.upload(file, name)
            self._sent[name] = state

    def keep(self) -> None:
        """Renew the lease in time, and `push`. What is refused is tried again the next time; a
        study that another driver has taken over meanwhile is left to it."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if not self._lost and time.time() > self._until - LEASE_S / 2:
                self._renew()
            if not self._lost:
                self.push()

    def _renew(self) -> None:
        try:
            self.take()
        except StudyError as error:
            self._lost = str(error)

    def check_kept(self) -> None:
        """Raises StudyError if another driver has taken the study over."""
        if self._lost:
            raise StudyError(
                f"{self._lost}; it took the study over while the object store did not answer, so "
                f"what this driver has written since is in {self._folder.path} alone"
            )

    def _files_there(self) -> dict[str, Stored]:
        every = self._objects.files().items()
        return {name: stored for name, stored in every if not name.startswith(".")}


def _files(folder: Path) -> list[Path]:
    """Every file that is no hidden one, nor one of SQLite's beside a database."""
    every = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return [path for path in every if not path.name.endswith(("-journal", "-wal", "-shm"))]


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_as_new(path: Path, stored: Stored) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    return status.st_size == stored.num_bytes and status.st_mtime >= stored.written


@contextlib.contextmanager
def _steady(path: Path) -> Iterator[Path]:
    """The file, or of a database that may be written to meanwhile a copy between two writes."""
    if path.suffix != ".db":
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / path.name
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
        yield target
