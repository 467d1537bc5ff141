"""The store of what stages make: same key, same bytes.

A stage's result is a folder that is written under a temporary name and published by one atomic
rename.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.errors import Diverged
from guard.stage import Stage

ABANDONED_AFTER_S = 7 * 24 * 3600.0


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


class ArtifactStore:
    """A folder of artifacts, safe to share between processes and machines on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def path(self, stage: Stage) -> Path:
        """Where the stage's result is, or will be."""
        return self.root / stage.address

    def get(self, stage: Stage) -> Artifact | None:
        path = self.path(stage)
        try:
            record = json.loads((path / "stage.json").read_text())
        except FileNotFoundError:
            return None
        return Artifact(path=path, summary=record["summary"], seconds=record["seconds"])

    def remove_abandoned(self, older_than_s: float = ABANDONED_AFTER_S) -> None:
        """Delete the half-made folders of processes that were killed."""
        for folder in self.root.glob("*/.*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > older_than_s:
                    shutil.rmtree(folder, ignore_errors=True)

    def get_or_build(self, stage: Stage, build: Build = build) -> Artifact:
        """The artifact of a stage; `build` fills a folder and returns its summary if there is none
        yet. What a failed build wrote is removed. Raises what `build` raises, and OSError."""
        found = self.get(stage)
        if found is not None:
            return found
        final = self.path(stage)
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{stage.key}-", dir=final.parent))
        try:
            start = time.perf_counter()
            summary = dict(build(stage, self, folder))
            seconds = time.perf_counter() - start
            record = {"stage": stage.description, "summary": summary, "seconds": seconds}
            (folder / "stage.json").write_text(json.dumps(record, indent=1, allow_nan=False))
            folder.chmod(0o755)
            with contextlib.suppress(OSError):  # another process published the same stage first
                os.rename(folder, final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        published = self.get(stage)
        if published is None:
            raise OSError(f"could not publish {final}")
        return Artifact(
            path=final, summary=published.summary, seconds=published.seconds, built=True
        )
