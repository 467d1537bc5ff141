"""Which worker computed which stage when, as lines of JSON in a study's folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

FILE = "timeline.jsonl"
TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """One computation of a stage."""

    stage: str
    key: str
    worker: str
    start: float
    """Seconds since the epoch, by the desk's clock; from the start of the work, not of the wait."""
    end: float


class Timeline:
    """Appends what the desk has seen since the last time."""

    def __init__(self, desk: Any, folder: Path) -> None:
        self._desk, self._path = desk, folder / FILE

    def update(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # busy: the next time will do
            append(self._path, ray.get(self._desk.take_spans.remote(), timeout=TIMEOUT_S))


def append(path: Path, spans: Iterable[Span]) -> None:
    text = "".join(json.dumps(asdict(span)) + "\n" for span in spans)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read(folder: Path) -> list[Span]:
    """Every computation of a study's stages, in the order in which they ended. A line that is being
    written, or that a kill cut short, is left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Span(**json.loads(line)) for line in lines if line.endswith("\n")]
