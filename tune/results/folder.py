"""Where a study keeps its records, and the tables made from them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tune.results.front import pareto_front
from tune.results.records import CONFIRMATION, FIXED_COLUMNS, FOLDERS, SEARCH, Record

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = ("artifacts", "mlflow", "mlflow.db")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


@dataclass(frozen=True)
class StudyFolder:
    """DIR/NAME and what lies in it. Several studies share one artifact store and one MLflow."""

    output: Path
    name: str

    @property
    def path(self) -> Path:
        return self.output / self.name

    @property
    def artifacts(self) -> Path:
        return self.output / "artifacts"

    @property
    def storage_uri(self) -> str:
        return f"sqlite:///{self.path / 'optuna.db'}"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.output / 'mlflow.db'}"

    def write(self, record: Record) -> None:
        """A file of its own for each trial of the search and each run of the confirmation; an
        earlier one of the same run is replaced."""
        name = f"{record.trial:05d}"
        if record.phase == CONFIRMATION:
            name = f"{name}-{record.config['seed']}"
        text = json.dumps(asdict(record), indent=1)
        write_atomically(self.path / FOLDERS[record.phase] / f"{name}.json", text)

    def read(self, trial: int) -> Record | None:
        """The record of a trial of the search."""
        return read_record(self.path / FOLDERS[SEARCH] / f"{trial:05d}.json")

    def records(self) -> list[Record]:
        """Every trial of the search, by number."""
        numbers = sorted(
            int(path.stem) for path in (self.path / FOLDERS[SEARCH]).glob("[0-9]*.json")
        )
        return [record for number in numbers if (record := self.read(number)) is not None]

    def confirmations(self) -> list[Record]:
        """Every run of the confirmation, by trial number and seed."""
        found = map(read_record, (self.path / FOLDERS[CONFIRMATION]).glob("[0-9]*.json"))
        return sorted(
            (record for record in found if record is not None),
            key=lambda record: (record.trial, record.config["seed"]),
        )

    def write_results(self, records: Iterable[Record]) -> None:
        """results.csv: a row a trial of `records`, then of the confirmation."""
        rows = [record.row() for record in (*records, *self.confirmations())]
        write_atomically(self.path / "results.csv", to_csv(rows))

    def write_tables(self, records: Iterable[Record], best: Record | None) -> None:
        """results.csv, pareto.csv and, if there is a choice, best.json: what `records` say now."""
        records = list(records)
        self.write_results(records)
        front = [record.row() for record in pareto_front(records)]
        write_atomically(self.path / "pareto.csv", to_csv(front))
        if best is not None:
            write_atomically(self.path / "best.json", json.dumps(best.config, indent=2))


def read_record(path: Path) -> Record | None:
    """The record in a file; None before it is there. Raises ValueError for what is no JSON, and
    TypeError for other fields than a record's."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Record(**{**values, "stages": tuple(values["stages"])})


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none before it is there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
