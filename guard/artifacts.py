"""Stages and the store of their results: same key, same bytes.

A stage is a pure function of plain values. Its key is their SHA-256; its result is a folder that is
written under a temporary name and published by one atomic rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from guard.config.schema import Config, digest

ABANDONED_AFTER_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Stage:
    """One step of a trial. Everything that its result depends on is in here."""

    name: str
    version: int
    """Raised whenever the same config would give other bytes than before."""
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Role -> "<stage name>/<key>" of each stage whose result this one reads."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where things are on this machine whose content `config` names; no part of the key."""

    @classmethod
    def of(cls, name: str, version: int, inputs: Mapping[str, Stage], **config: Any) -> Stage:
        """A stage from config sections or plain values, and from the stages that it reads.

        Data with a known content is named by it, wherever it lies."""
        plain = {key: v.to_dict() if isinstance(v, Config) else v for key, v in config.items()}
        places = {}
        if "data" in plain and plain["data"]["sha256"]:
            places["data"] = plain["data"]["path"]
            plain["data"] = {**plain["data"], "path": ""}
        addresses = {role: made.address for role, made in inputs.items()}
        return cls(name, version, plain, addresses, places)

    @cached_property
    def key(self) -> str:
        return digest([self.name, self.version, self.config, self.inputs])[:32]

    @property
    def address(self) -> str:
        """Where the store keeps the result: "<name>/<key>"."""
        return f"{self.name}/{self.key}"


@dataclass(frozen=True)
class Artifact:
    """The published result of a stage."""

    path: Path
    summary: Mapping[str, Any]
    """Plain values that the stage reports: metrics, history."""
    seconds: float
    """Time that the stage took to compute, whoever computed it."""
    built: bool = False
    """Whether this call computed it; False if it was there already."""


class ArtifactStore:
    """A folder of artifacts, safe to share between processes and machines on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def path(self, address: str) -> Path:
        return self.root / address

    def get(self, stage: Stage) -> Artifact | None:
        path = self.path(stage.address)
        try:
            record = json.loads((path / "stage.json").read_text())
        except FileNotFoundError:
            return None
        return Artifact(path, record["summary"], record["seconds"])

    def remove_abandoned(self, older_than_s: float = ABANDONED_AFTER_S) -> None:
        """Delete the half-made folders of processes that were killed."""
        for folder in self.root.glob("*/.*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > older_than_s:
                    shutil.rmtree(folder, ignore_errors=True)

    def get_or_build(
        self, stage: Stage, build: Callable[[Stage, ArtifactStore, Path], Mapping[str, Any]]
    ) -> Artifact:
        """The artifact of a stage; `build(stage, store, folder)` fills a folder and returns its
        summary if there is none yet. What a failed build wrote is removed."""
        found = self.get(stage)
        if found is not None:
            return found
        final = self.path(stage.address)
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{stage.key}-", dir=final.parent))
        try:
            start = time.perf_counter()
            summary = dict(build(stage, self, folder))
            seconds = time.perf_counter() - start
            record = {"stage": asdict(stage), "summary": summary, "seconds": seconds}
            (folder / "stage.json").write_text(json.dumps(record, indent=1, allow_nan=False))
            folder.chmod(0o755)
            with contextlib.suppress(OSError):  # another process published the same stage first
                os.rename(folder, final)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        published = self.get(stage)
        if published is None:
            raise OSError(f"could not publish {final}")
        return Artifact(final, published.summary, published.seconds, built=True)
