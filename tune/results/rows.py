"""Records as rows, and rows as CSV."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from guard.config import RegularizerConfig
from guard.errors import StudyError
from tune.results import wording
from tune.results.records import Record

FIXED_COLUMNS = (
    "trial",
    "phase",
    "status",
    "dataset",
    "method",
    "regularizer",
    "weight",
    "h",
    "ipc",
    "seed",
)


def row_of(record: Record) -> dict[str, Any]:
    """A row of results.csv."""
    penalty = RegularizerConfig.from_dict(record.config["regularizer"])
    return {
        "trial": record.trial,
        "phase": record.phase,
        "status": record.status,
        "dataset": record.config["data"]["name"],
        "method": record.config["method"],
        "regularizer": penalty.title,
        **wording.numbers(penalty),
        "ipc": record.config["ipc"],
        "seed": record.config["seed"],
        **record.metrics,
        **{f"param/{path}": value for path, value in record.params.items()},
        "seconds": record.seconds,
        "stage_seconds": record.stage_seconds,
        "waiting_seconds": record.waiting_seconds,
        "fingerprint": record.fingerprint,
        "flags": "; ".join(record.flags),
        "rung": record.rung,
        "reason": record.reason,
    }


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none before it is there. Raises StudyError for a file that is no
    table."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        if any(None in row or None in row.values() for row in rows):
            raise csv.Error("its rows are not equally long")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path}: is no table ({error}); remove it, and run the study") from None


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with the columns of all rows: the fixed ones, parameters, metrics, the rest."""
    rows = list(rows)
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    ranks = {name: rank for rank, name in enumerate(FIXED_COLUMNS)}

    def rank(name: str) -> tuple[int, int]:
        parts = ("validation/", "test/", "teacher/", "distilled/", "student/", "param/")
        part = next((i for i, prefix in enumerate(parts) if name.startswith(prefix)), len(parts))
        return (ranks.get(name, len(ranks)), part)

    columns.sort(key=rank)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
