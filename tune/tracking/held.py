"""What MLflow is told, and what it has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run

CONTEXT = "mlflow.data.context"
"""The tag of a run's data that says what they are to it."""
THIS_RUN = "this-run"
Key = tuple[str, str]
"""Of a data set in an experiment: its name and its digest."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """A data set that a run reads or makes."""

    name: str
    digest: str
    """Of its content; at most 36 characters."""
    context: str
    """real, or distilled."""
    source_type: str
    """As MLflow names them: local (a path or a URI), or code."""
    source: str
    """JSON; `THIS_RUN` in it is the run that is told of it."""

    @property
    def key(self) -> Key:
        return self.name, self.digest


@dataclass(frozen=True, kw_only=True)
class Student:
    """What MLflow calls a logged model: to be ranked, without files."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]

    def is_tagged(self, model: HeldModel) -> bool:
        return self.tags.items() <= model.tags.items()


@dataclass(frozen=True)
class Point:
    """A value of a metric at a step."""

    name: str
    value: float
    step: int = 0
    of_student: bool = False
    """Whether it is one of the student's own, which it is ranked by."""
    images: Key | None = None
    """The data that it was measured on."""
    at: int | None = None
    """Milliseconds since the epoch; None: when all others are that are told with it."""


@dataclass(kw_only=True)
class HeldModel:
    """A logged model as MLflow has it."""

    model_id: str
    is_ready: bool
    tags: dict[str, str]
    metrics: dict[str, float]
    """The last value of each."""

    @classmethod
    def of(cls, model: LoggedModel) -> HeldModel:
        ordered = sorted(model.metrics or (), key=lambda metric: metric.timestamp)
        return cls(
            model_id=model.model_id,
            is_ready=str(model.status) == "READY",
            tags=dict(model.tags or {}),
            metrics={metric.key: metric.value for metric in ordered},
        )


@dataclass(kw_only=True)
class Held:
    """A run as MLflow has it."""

    run_id: str
    start: int
    """Milliseconds since the epoch."""
    artifact_uri: str
    status: str
    deleted: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each."""
    images: set[Key] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    """Identities of logged models that it has made."""
    model: HeldModel | None = None

    @property
    def rank(self) -> tuple[bool, bool]:
        """The least is the run of a trial that has several."""
        return self.deleted, self.status != "FINISHED"

    @classmethod
    def of(cls, run: Run) -> Held:
        info, data = run.info, run.data
        inputs = run.inputs.dataset_inputs if run.inputs else []
        outputs = run.outputs.model_outputs if run.outputs else []
        return cls(
            run_id=info.run_id,
            start=info.start_time,
            artifact_uri=info.artifact_uri,
            status=info.status,
            deleted=info.lifecycle_stage == "deleted",
            tags=dict(data.tags),
            params=dict(data.params),
            metrics=dict(data.metrics),
            images={(own.dataset.name, own.dataset.digest) for own in inputs},
            outputs={own.model_id for own in outputs},
        )


def metric(point: Point, run: Held, at: int) -> Metric:
    """A point of a run as MLflow takes it."""
    from mlflow.entities import Metric

    name, digest = point.images or (None, None)
    return Metric(
        point.name,
        point.value,
        at if point.at is None else point.at,
        point.step,
        model_id=run.model.model_id if run.model and point.of_student else None,
        dataset_name=name,
        dataset_digest=digest,
    )


def milliseconds() -> int:
    """Since the epoch, now."""
    return int(time.time() * 1000)
