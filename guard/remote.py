"""A store of results in an object store, of which every machine keeps the copies that it reads."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from guard.artifacts import (
    ABSENT,
    RECORD,
    Artifact,
    ArtifactStore,
    Build,
    Damaged,
    build,
    parsed_record,
    without_unfinished,
)
from guard.background import repeating
from guard.objects import Objects, Stored, copy_of, is_uri
from guard.stage import Stage
from guard.sums import FileSums, content_fault

AT_A_TIME = 8
"""Files of a result that are on their way."""
BRING_EVERY_S = 60.0
"""Checkpoints of a stage under way go to the object store so often."""
ASIDE = ".damaged"
"""What the name of a damaged result's stage.json gets at its end."""


def store_at(place: str) -> ArtifactStore:
    """The store in a folder, or at the URI of an object store."""
    return RemoteStore(Objects(place)) if is_uri(place) else ArtifactStore(Path(place))


class RemoteStore(ArtifactStore):
    """What is in the object store is there; a folder of this machine is a copy. A result's
    stage.json is written last, so that where it is the others are."""

    def __init__(self, objects: Objects) -> None:
        super().__init__(copy_of(objects.uri))
        self._objects = objects

    def look(self, folder: Path) -> Artifact:
        """What the object store says of a result, whose folder need not be here. Raises Damaged."""
        record = self._parsed(folder)
        return Artifact(path=folder, summary=record["summary"], seconds=record["seconds"])

    def fetch(self, folder: Path) -> Artifact:
        """A whole copy of a result, its bytes checked. One that is damaged in the object store is
        put aside there. Raises Damaged."""
        with contextlib.suppress(Damaged):
            return super().fetch(folder)
        there = self.look(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            sums = self._download(folder, scratch)
            fault = content_fault(scratch, sums)
            if fault:
                record = f"{self._address(folder)}/{RECORD}"
                self._objects.rename(record, record + ASIDE)
                raise Damaged(self._place(folder), fault)
            self._publish(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return there

    def get_or_build(self, stage: Stage, build: Build = build) -> Artifact:
        """See `ArtifactStore.get_or_build`; what is built is in the object store then."""
        folder = self.path(stage)
        try:
            return self.look(folder)
        except Damaged as damaged:
            fault = "" if damaged.fault == ABSENT else damaged.fault
        with contextlib.suppress(Damaged):
            super().fetch(folder)  # puts a damaged copy aside
        with self._going_on(self.scratch(stage)):
            made = super().get_or_build(stage, build)
            self._upload(folder)
        return replace(made, replaced=fault or made.replaced)

    def folders(self) -> Iterator[Path]:
        """Where the copies of all results are, or would be."""
        return (self.root / address for address in sorted(self.sizes()) if "/." not in address)

    def faults(self) -> Iterator[Damaged]:
        """Of every result in the object store; reads all of it."""
        for folder in self.folders():
            try:
                sums = self._sums(folder)
                for name, known in sums.items():
                    if self._sha256(folder, name) != known["sha256"]:
                        raise Damaged(folder, f"{name} has other bytes than were written")
            except Damaged as damaged:
                yield Damaged(self._place(folder), damaged.fault)

    def sizes(self) -> dict[str, Stored]:
        """Of every result, whole or not, by its address: all its bytes, and when the last one was
        written."""
        found: dict[str, Stored] = {}
        for name, file in self._objects.files().items():
            stage, key, *rest = (*name.split("/"), "", "")
            if any(rest):
                known = found.get(f"{stage}/{key}", Stored(0, 0.0))
                total, last = known.num_bytes + file.num_bytes, max(known.written, file.written)
                found[f"{stage}/{key}"] = Stored(total, last)
        return without_unfinished(found)

    def discard(self, address: str) -> None:
        for name in self._objects.below(address).files():
            self._objects.remove(f"{address}/{name}")
        shutil.rmtree(self.root / address, ignore_errors=True)

    def _sums(self, folder: Path) -> FileSums:
        sums: FileSums = self._parsed(folder).get("files", {})
        return sums

    def record(self, folder: Path) -> bytes:
        """The stage.json of a result. Raises OSError."""
        return self._objects.read(f"{self._address(folder)}/{RECORD}")

    def _parsed(self, folder: Path) -> dict[str, Any]:
        """Raises Damaged."""
        try:
            return parsed_record(folder, self.record(folder))
        except FileNotFoundError:
            raise Damaged(self._place(folder), ABSENT) from None

    def _sha256(self, folder: Path, name: str) -> str:
        try:
            return self._objects.sha256(f"{self._address(folder)}/{name}")
        except FileNotFoundError:
            raise Damaged(folder, f"{name} is not there") from None

    def _download(self, folder: Path, target: Path) -> FileSums:
        address, sums = self._address(folder), self._sums(folder)

        def load(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):  # its sum will not be right
                self._objects.download(f"{address}/{name}", target / name)

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(load, (*sums, RECORD)))
        return sums

    def _upload(self, folder: Path) -> None:
        address = self._address(folder)

        def send(name: str) -> None:
            self._objects.upload(folder / name, f"{address}/{name}")

        files = [path for path in folder.rglob("*") if path.is_file()]
        names = {path.relative_to(folder).as_posix() for path in files}
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(send, sorted(names - {RECORD})))
        send(RECORD)

    @contextlib.contextmanager
    def _going_on(self, scratch: Path) -> Iterator[None]:
        """Keep what a stage under way goes on from in the object store too, for another machine;
        gone at a good end."""
        there = self._objects.below(self._address(scratch))
        if not scratch.is_dir():
            for name in there.files():
                there.download(name, scratch / name)
        with repeating(lambda: _bring(scratch, there), BRING_EVERY_S):
            yield
        for name in there.files():
            there.remove(name)

    def _address(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _place(self, folder: Path) -> str:
        return f"{self._objects}/{self._address(folder)}"


def _bring(scratch: Path, there: Objects) -> None:
    """What is new in a folder, and not what has gone from it. Files there do not change, and those
    that are being written are hidden or unfinished. States (.pt) come last: they presuppose the
    others."""
    with contextlib.suppress(OSError):  # it costs the next machine some time
        here = {path.relative_to(scratch).as_posix(): path for path in _finished(scratch)}
        known = there.files()
        for name in sorted(here.keys() - known.keys(), key=lambda name: name.endswith(".pt")):
            there.upload(here[name], name)
        for name in known.keys() - here.keys():
            there.remove(name)


def _finished(scratch: Path) -> list[Path]:
    every = scratch.rglob("[!.]*")
    return [path for path in every if path.is_file() and path.suffix != ".part"]
