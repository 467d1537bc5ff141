"""The store of what stages make: same key, same bytes.

A stage's result is a folder that is written under a temporary name and published by one atomic
rename. Its stage.json lists every file with its size and SHA-256 and is covered by a sum of its
own: what has been changed, cut off or lost since is not there, and is computed again. The damaged
folder is kept aside for a week, as a hidden one beside its successor.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.config.schema import digest
from guard.errors import DataError, Diverged
from guard.objects import Stored
from guard.stage import Stage
from guard.sums import content_fault, file_sums, size_fault

ABANDONED_AFTER_S = 7 * 24 * 3600.0
RECORD = "stage.json"
ABSENT = f"{RECORD} is not there"
KEYED = ("name", "version", "config", "inputs")
"""Of a stage's description: what its key is made of."""


def without_unfinished(found: Mapping[str, Stored]) -> dict[str, Stored]:
    """Of what lies in a store, by address, without what a stage under way has so far."""
    young = time.time() - ABANDONED_AFTER_S
    return {
        address: stored
        for address, stored in found.items()
        if not (address.split("/")[1].startswith(".") and stored.written > young)
    }


class Damaged(DataError):
    """A result that is not what a stage wrote: names the folder and what is wrong with it."""

    def __init__(self, place: Path | str, fault: str) -> None:
        super().__init__(place, fault)
        self.place, self.fault = place, fault

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}; the command that made it computes it again"


class MissingInput(Exception):
    """A stage's input that is not there, or no longer: it must be computed first."""

    def __init__(self, stage: Stage, fault: str) -> None:
        super().__init__(stage, fault)
        self.stage, self.fault = stage, fault

    def __str__(self) -> str:
        return f"{self.stage.address}: {self.fault}"


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The published result of a stage."""

    path: Path
    summary: Mapping[str, Any]
    """Plain values that the stage reports: metrics, history."""
    seconds: float
    """Time that the stage took to compute, whoever computed it."""
    built: bool = False
    """Whether this call computed it; False if it was there already."""
    replaced: str = ""
    """What was wrong with the damaged one whose place it took."""


def attempts(stage: Stage) -> int:
    """How often a stage is tried whose inputs turn out to be damaged: each of them may be, and a
    disk that damages them again and again is not waited for."""
    return len(stage.inputs) + 2


Build = Callable[[Stage, "ArtifactStore", Path], Mapping[str, Any]]


def build(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Do a stage's work: fill the folder and return the summary. Divergence is a result too
    (summary: `diverged`), so it is cached."""
    module, _, function = stage.work.partition(":")
    work: Build = getattr(importlib.import_module(module), function)
    try:
        return work(stage, store, folder)
    except Diverged as diverged:
        return {"diverged": str(diverged)}


def listed(folder: Path) -> Artifact:
    """A stage's result whose record is whole and whose files have their sizes. Raises Damaged."""
    return _checked(folder, size_fault)


def verified(folder: Path) -> Artifact:
    """A stage's result whose files have the bytes that were written, too; results of versions that
    wrote no sums are taken as they are. Raises Damaged."""
    return _checked(folder, content_fault)


def _checked(folder: Path, fault_of: Callable[[Path, Mapping[str, Any]], str]) -> Artifact:
    record = _record(folder)
    fault = fault_of(folder, record.get("files", {}))
    if fault:
        raise Damaged(folder, fault)
    return Artifact(path=folder, summary=record["summary"], seconds=record["seconds"])


def _record(folder: Path) -> dict[str, Any]:
    """What stage.json says. Raises Damaged."""
    try:
        return parsed_record(folder, (folder / RECORD).read_bytes())
    except FileNotFoundError:
        raise Damaged(folder, ABSENT) from None
    except OSError as error:
        raise Damaged(folder, f"{RECORD} cannot be read ({error.strerror})") from None


def parsed_record(folder: Path, content: bytes) -> dict[str, Any]:
    """What the stage.json of a folder says, without its own sum. Raises Damaged."""
    try:
        record = json.loads(content)
        key = digest([record["stage"][name] for name in KEYED])[:32]
        complete = {"summary", "seconds"} <= record.keys()
        own = record.pop("sha256", None)
        as_written = own == (digest(record) if "files" in record else None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Damaged(folder, f"{RECORD} is damaged") from None
    if not as_written:
        raise Damaged(folder, f"{RECORD} is not what was written")
    if key != folder.name or not complete:
        raise Damaged(folder, f"{RECORD} is of another stage")
    return dict(record)


class ArtifactStore:
    """A folder of artifacts, safe to share between processes and machines on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def path(self, stage: Stage) -> Path:
        """Where the stage's result is, or will be."""
        return self.root / stage.address

    def get(self, stage: Stage) -> Artifact | None:
        """The stage's result, if it is there and looks whole."""
        try:
            return self.look(self.path(stage))
        except Damaged:
            return None

    def look(self, folder: Path) -> Artifact:
        """`listed`. Raises Damaged."""
        return listed(folder)

    def read(self, stage: Stage) -> Artifact:
        """The result of another stage's input, its bytes checked. A damaged one is put aside.

        Raises MissingInput: then it has to be computed before the stage that reads it.
        """
        try:
            return self.fetch(self.path(stage))
        except Damaged as damaged:
            raise MissingInput(stage, damaged.fault) from None

    def refused(self, folder: Path) -> Damaged | None:
        """What is wrong with a result, of which every byte is checked; a damaged one is put aside.
        None for a whole one, and for none."""
        try:
            self.fetch(folder)
        except Damaged as damaged:
            return None if damaged.fault == ABSENT and not folder.exists() else damaged
        return None

    def record(self, folder: Path) -> bytes:
        """The stage.json of a result. Raises OSError."""
        return (folder / RECORD).read_bytes()

    def scratch(self, stage: Stage) -> Path:
        """A folder for what a stage under way goes on from; gone when its result is published."""
        path = self.path(stage)
        return path.with_name(f".checkpoint-{path.name}")

    def folders(self) -> Iterator[Path]:
        """Of every result, damaged ones too."""
        return self.root.glob("*/[!.]*")

    def sizes(self) -> dict[str, Stored]:
        """Of every result, whole or not, by its address: all its bytes, and when it was written.
        What a stage has come to on its way is one when it is abandoned."""
        found = {}
        for folder in filter(Path.is_dir, self.root.glob("*/*")):
            files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            address = folder.relative_to(self.root).as_posix()
            found[address] = Stored(sum(files), folder.stat().st_mtime)
        return without_unfinished(found)

    def discard(self, address: str) -> None:
        """Remove a result. Raises OSError."""
        shutil.rmtree(self.root / address)

    def faults(self) -> Iterator[Damaged]:
        """Of every result of the store; reads all of it."""
        for folder in sorted(self.folders()):
            try:
                verified(folder)
            except Damaged as damaged:
                yield damaged

    def remove_abandoned(self, older_than_s: float = ABANDONED_AFTER_S) -> None:
        """Delete what killed processes left half-made, and what was put aside."""
        for folder in self.root.glob("*/.*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > older_than_s:
                    shutil.rmtree(folder, ignore_errors=True)

    def get_or_build(self, stage: Stage, build: Build = build) -> Artifact:
        """The artifact of a stage; `build` fills a folder and returns its summary if there is none
        yet, or a damaged one. What a failed build wrote is removed.

        Raises what `build` raises, MissingInput among it, and OSError.
        """
        final = self.path(stage)
        try:
            return listed(final)
        except Damaged as damaged:
            fault = "" if damaged.fault == ABSENT and not final.exists() else damaged.fault
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{stage.key}-", dir=final.parent))
        try:
            start = time.perf_counter()
            try:
                summary = dict(build(stage, self, folder))
            except OSError:  # another process may have published it, and what both used is gone
                with contextlib.suppress(Damaged):
                    return listed(final)
                raise
            write_record(stage, folder, summary, time.perf_counter() - start)
            self._publish(folder, final)
            shutil.rmtree(self.scratch(stage), ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        made = listed(final)
        return Artifact(
            path=final, summary=made.summary, seconds=made.seconds, built=True, replaced=fault
        )

    def fetch(self, folder: Path) -> Artifact:
        """`verified`; a damaged one is put aside, unless another has taken its place meanwhile.
        Raises Damaged."""
        inode = folder.stat().st_ino if folder.is_dir() else None
        try:
            return verified(folder)
        except Damaged:
            if inode is not None and folder.is_dir() and folder.stat().st_ino == inode:
                self._put_aside(folder)
            raise

    def _publish(self, folder: Path, final: Path) -> None:
        """Unless another process has published the same stage first."""
        try:
            os.rename(folder, final)
        except OSError:
            if not final.exists():
                raise
            with contextlib.suppress(Damaged):
                listed(final)
                return
            self._put_aside(final)
            os.rename(folder, final)

    def _put_aside(self, path: Path) -> None:
        aside = Path(tempfile.mkdtemp(prefix=f".damaged-{path.name}-", dir=path.parent))
        with contextlib.suppress(FileNotFoundError):  # another process has done it
            os.rename(path, aside / path.name)


def write_record(stage: Stage, folder: Path, summary: Mapping[str, Any], seconds: float) -> None:
    """Write stage.json, and give every file the rights that a new one gets here (safetensors' own
    are for their owner alone). Raises ValueError for a summary that is not plain, and OSError."""
    record = {
        "stage": stage.description,
        "summary": dict(summary),
        "seconds": seconds,
        "files": file_sums(folder),
    }
    file = folder / RECORD
    text = json.dumps({**record, "sha256": digest(record)}, indent=1, allow_nan=False)
    file.write_text(text, encoding="utf-8")
    readable = file.stat().st_mode & 0o777
    for path in (folder, *folder.rglob("*")):
        path.chmod(readable | (readable & 0o444) >> 2 if path.is_dir() else readable)
