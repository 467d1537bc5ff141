"""What a study keeps of its trials: a JSON record each, and the tables made from them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guard.config import RegularizerConfig, TrialConfig
from guard.flags import flags_of
from guard.pipeline import TrialResult

OBJECTIVES = ("validation/clean_accuracy", "validation/robust_accuracy")
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
SEARCH, CONFIRMATION = "search", "confirmation"
FOLDERS = {SEARCH: "trials", CONFIRMATION: "confirmation"}
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = ("artifacts", "mlflow", "mlflow.db")


@dataclass(frozen=True)
class Record:
    """One finished trial. Metrics are named "<split or part>/<metric>", accuracies in [0, 1]."""

    trial: int
    status: str
    """complete; diverged: ended early; failed: a stage raised."""
    reason: str
    control: bool
    """Whether it is the unregularized baseline of its method and IPC."""
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    fingerprint: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waiting_seconds: float = 0.0
    stages: tuple[Mapping[str, Any], ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    phase: str = SEARCH
    """search, or confirmation: a trial of the search run again with another seed."""

    @classmethod
    def of(
        cls,
        trial: int,
        config: TrialConfig,
        params: Mapping[str, Any],
        control: bool,
        result: TrialResult,
        phase: str = SEARCH,
    ) -> Record:
        return cls(
            trial,
            result.status,
            result.reason,
            control,
            params,
            config.to_dict(),
            config.fingerprint(),
            dict(result.metrics),
            result.seconds,
            result.waiting_seconds,
            tuple(asdict(stage) for stage in result.stages),
            {name: str(path) for name, path in result.paths.items()},
            phase,
        )

    @classmethod
    def failed(
        cls,
        trial: int,
        config: TrialConfig,
        params: Mapping[str, Any],
        control: bool,
        reason: str,
        phase: str = SEARCH,
    ) -> Record:
        plain = (config.to_dict(), config.fingerprint())
        return cls(trial, "failed", reason, control, params, *plain, phase=phase)

    @property
    def label(self) -> str:
        """A name that no other run of the study has."""
        number = str(self.trial)
        return number if self.is_search else f"{number} seed {self.config['seed']}"

    @property
    def is_search(self) -> bool:
        return self.phase == SEARCH

    @property
    def accuracies(self) -> tuple[float | None, float | None]:
        """Clean and robust accuracy on the split that the run is for: validation in a search."""
        split = "validation" if OBJECTIVES[0] in self.metrics else "test"
        clean, robust = (f"{split}/{name}" for name in ("clean_accuracy", "robust_accuracy"))
        return self.metrics.get(clean), self.metrics.get(robust)

    @property
    def flags(self) -> list[str]:
        """Signs that its robust accuracy is not to be believed."""
        return flags_of(self.metrics)

    @property
    def finished(self) -> bool:
        return self.status in ("complete", "diverged")

    @property
    def objectives(self) -> tuple[float, float]:
        """Clean and robust validation accuracy; a trial that diverged scores 0, 0."""
        clean, robust = (self.metrics.get(name, 0.0) for name in OBJECTIVES)
        return (clean, robust) if self.status == "complete" else (0.0, 0.0)

    @property
    def group(self) -> tuple[str, int]:
        """Method and IPC."""
        return self.config["method"], self.config["ipc"]

    @property
    def unregularized(self) -> dict[str, Any]:
        """What was drawn for it, without the fields of the regularizer."""
        return {k: v for k, v in self.params.items() if k.partition(".")[0] != "regularizer"}

    @property
    def stage_seconds(self) -> float:
        """Time of the stages that this trial waited for itself."""
        return sum(float(stage["seconds"]) for stage in self.stages if stage["built"])

    def row(self) -> dict[str, Any]:
        """A row of results.csv."""
        penalty = RegularizerConfig.from_dict(self.config["regularizer"])
        values = (
            self.trial,
            self.phase,
            self.status,
            self.config["data"]["name"],
            self.config["method"],
            penalty.title,
            penalty.weight,
            penalty.h if "h" in penalty.fields_used() else None,
            self.config["ipc"],
            self.config["seed"],
        )
        return {
            **dict(zip(FIXED_COLUMNS, values, strict=True)),
            **self.metrics,
            **{f"param/{path}": value for path, value in self.params.items()},
            "seconds": self.seconds,
            "stage_seconds": self.stage_seconds,
            "waiting_seconds": self.waiting_seconds,
            "fingerprint": self.fingerprint,
            "flags": "; ".join(self.flags),
            "reason": self.reason,
        }


def one_line(error: Exception) -> str:
    """The cause of an error that Ray wrapped, without its trace."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w") as file:
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
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return Record(**{**values, "stages": tuple(values["stages"])})


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


def pareto_front(records: Iterable[Record]) -> list[Record]:
    """Complete trials that no other one beats in both objectives, the cleanest first."""
    complete = [record for record in records if record.status == "complete"]
    front = [
        record
        for record in complete
        if not any(dominates(other.objectives, record.objectives) for other in complete)
    ]
    return sorted(front, key=lambda record: (*(-v for v in record.objectives), record.trial))


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a != b


def control_of(record: Record, records: Iterable[Record]) -> Record | None:
    """The unregularized trial that is otherwise the same; if none is (a field other than the
    regularizer's is searched on a scale), the most robust one of the same method and IPC."""
    controls = [
        r for r in records if r.control and r.status == "complete" and r.group == record.group
    ]
    same = [control for control in controls if control.unregularized == record.unregularized]
    return max(same or controls, key=lambda r: (r.objectives[1], -r.trial), default=None)


def choose(records: Iterable[Record], max_clean_drop: float) -> Record | None:
    """The most robust trial, on validation, whose clean accuracy is within `max_clean_drop` of its
    control's. The cleaner, then the earlier one wins a tie. None before a control is complete."""
    records = list(records)
    allowed = [
        record
        for record in records
        if record.status == "complete"
        and (control := control_of(record, records)) is not None
        and record.objectives[0] >= control.objectives[0] - max_clean_drop
    ]
    return max(allowed, key=lambda r: (r.objectives[1], r.objectives[0], -r.trial), default=None)
