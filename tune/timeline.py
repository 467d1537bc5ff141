"""Which worker computed which stage when, as lines of JSON in a study's folder."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tune.places import retrying
from tune.results.reading import parse_json

FILE = "timeline.jsonl"
USAGE = ("cpu_percent", "memory_mib", "gpu_memory_mib", "gpu_share")
"""What a span says of its worker."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """One computation of a stage."""

    stage: str
    key: str
    worker: str
    start: float
    """Seconds since the epoch, by the desk's clock; from the start of the work, not of the wait."""
    end: float
    cpu_percent: float = 0.0
    """Of the worker while it computed, as `tune.usage` has it; 0 where it was not measured."""
    memory_mib: float = 0.0
    gpu_memory_mib: float = 0.0
    gpu_share: float = 0.0


def append(path: Path, spans: Iterable[Span]) -> None:
    """Write them at the end of the file, as a whole or not at all. Raises StudyError if the file
    cannot be written for half a minute."""
    text = "".join(json.dumps(asdict(span)) + "\n" for span in spans)
    if text:
        retrying(lambda: _append(path, text.encode()), path.parent)


def _append(path: Path, text: bytes) -> None:
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read(1) not in (b"", b"\n"):  # a kill cut the last line short
            text = b"\n" + text
        try:
            if file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def read(folder: Path) -> list[Span]:
    """Every computation of a study's stages, in the order in which they ended. Lines that are none,
    such as one that a kill cut short, are left out."""
    return [span for span in _spans(folder) if span is not None]


def left_out(folder: Path) -> list[str]:
    """In a line how many lines are none; that a kill cut one short is no news."""
    found = _spans(folder)
    bad = found[:-1].count(None)
    return [f"{folder / FILE}: {bad} of {len(found)} lines are left out"] if bad else []


def _spans(folder: Path) -> list[Span | None]:
    """The computation of each line."""
    try:
        return [_span(line) for line in (folder / FILE).read_bytes().splitlines(keepends=True)]
    except FileNotFoundError:
        return []


def _span(line: bytes) -> Span | None:
    try:
        span = Span(**parse_json(line.decode() if line.endswith(b"\n") else ""))
    except (ValueError, TypeError):
        return None
    is_text = all(isinstance(text, str) for text in (span.stage, span.key, span.worker))
    numbers = (span.start, span.end, *(getattr(span, name) for name in USAGE))
    is_number = all(isinstance(number, (int, float)) for number in numbers)
    return span if is_text and is_number else None
