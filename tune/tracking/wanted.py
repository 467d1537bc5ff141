"""What MLflow is to have of a finished trial: a function of its record and its files."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.card import finished_card
from guard.trial import TrialConfig, methods, sections
from tune.results import wording
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.tracking.store import Held, Point

STUDY, TRIAL, FINGERPRINT = "guard.study", "guard.trial", "guard.fingerprint"
ID = "guard.id"
"""Of the study's folder: two studies of one name may share a server."""
STATUS = "guard.status"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
MAX_LENGTH = 500
"""Of a parameter or a tag, in characters."""
CURVES = ("loss", "accuracy", "lr")
DISTILLED_FILES = ("images.png", "images.safetensors", "card.json")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run as it is to be. What search finds of it says whether it is: no tag says so alone."""

    name: str
    seconds: float
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: tuple[Point, ...]
    """Metrics, and curves over epochs in order."""
    files: Mapping[str, Path | bytes]
    """Artifacts by path."""

    @property
    def folders(self) -> set[str]:
        """Of the artifacts; "" is the top."""
        return {path.rpartition("/")[0] for path in self.files}

    def tags_missing(self, run: Held) -> dict[str, str]:
        return {k: v for k, v in self.tags.items() if run.tags.get(k, "") != v}

    def params_missing(self, run: Held) -> dict[str, str]:
        """Those that are there are right: MLflow changes none."""
        return {k: v for k, v in self.params.items() if k not in run.params}

    def points_missing(self, run: Held) -> list[Point]:
        """All of a metric whose last value is another one."""
        last = {point.name: point.value for point in self.points}
        there = {name for name, v in last.items() if same(run.metrics.get(name), v)}
        return [point for point in self.points if point.name not in there]

    def files_missing(self, sizes: Mapping[str, int]) -> dict[str, Path | bytes]:
        """Those that are not there, or of another size."""
        return {k: v for k, v in self.files.items() if sizes.get(k) != size(v)}

    def holds(self, run: Held) -> bool:
        """Whether the run has everything, as far as a search says."""
        missing = (self.tags_missing(run), self.params_missing(run), self.points_missing(run))
        return run.status == self.status and not run.deleted and not any(missing)


def wanted(record: Record, folder: StudyFolder, tags: Mapping[str, str]) -> Wanted:
    """Of a record; the tags of a study's runs are added to its own."""
    config = TrialConfig.from_dict(record.config)
    seconds = {"seconds": record.seconds, "stage_seconds": record.stage_seconds}
    metrics = {**record.metrics, **seconds} if record.finished else {}
    places = {part: folder.output / path for part, path in record.paths.items()}
    ended = {
        STATUS: record.status,
        "guard.reason": record.reason[:MAX_LENGTH],
        "guard.phase": record.phase,
        "guard.flags": "; ".join(record.flags)[:MAX_LENGTH],
    }
    return Wanted(
        name=wording.title(config, record.params),
        seconds=record.seconds,
        status="FINISHED" if record.finished else "FAILED",
        tags={**tags, **trial_tags(record.label, record.fingerprint, config.seed), **ended},
        params=params_of(config),
        points=(
            *(Point(name, float(value)) for name, value in metrics.items()),
            *curves(folder, places.get("teacher"), "teacher"),
            *curves(folder, places.get("student"), "student"),
        ),
        files={"config.json": config.to_json().encode(), **distilled_files(record, config, places)},
    )


def trial_tags(label: str, fingerprint: str, seed: int) -> dict[str, str]:
    """Which trial a run is of."""
    return {TRIAL: label, FINGERPRINT: fingerprint, "seed": str(seed)}


def params_of(config: TrialConfig) -> dict[str, str]:
    """The fields that the trial reads and that are set, as text: MLflow takes a hundred at once.
    All of them are in config.json."""
    every = {name for method in methods().values() for name in sections(method)}
    unread = every - set(sections(type(config.own)))
    if config.student.labels == "soft":
        unread.discard("squeeze")
    experts = getattr(config.own, "experts", None)
    used = {"kind"} | (experts.adversary.fields_used() if experts else frozenset())
    penalty = f"{config.method}.experts.adversary."
    return {
        path: str(value)[:MAX_LENGTH]
        for path, value in config.flat().items()
        if value is not None
        and path.partition(".")[0] not in unread
        and (path.removeprefix(penalty) in used or not path.startswith(penalty))
    }


def curves(folder: StudyFolder, place: Path | None, part: str) -> Iterator[Point]:
    """Over the epochs of a stage that trained; none where its record cannot be read."""
    if place is None:
        return
    try:
        stage = json.loads(folder.store.record(place))
        history: list[Mapping[str, Any]] = stage["summary"]["history"]
    except (OSError, ValueError, KeyError):
        return
    for epoch in history:
        for name in CURVES:
            yield Point(f"{part}/epoch_{name}", float(epoch[name]), epoch["epoch"])


def distilled_files(
    record: Record, config: TrialConfig, places: Mapping[str, Path]
) -> dict[str, Path | bytes]:
    """Of the distilled set, as far as there are any; the card says how good the teacher is."""
    folder = places.get("distilled")
    if folder is None:
        return {}
    files = {f"distilled/{name}": folder / name for name in DISTILLED_FILES}
    found: dict[str, Path | bytes] = {name: path for name, path in files.items() if path.is_file()}
    with contextlib.suppress(OSError, ValueError, LookupError):
        card = finished_card(folder, config, record.metrics)
        found["distilled/card.json"] = json.dumps(card, indent=1).encode()
    return found


def size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def same(stored: float | None, value: float) -> bool:
    """Whether it is what MLflow makes of the value: databases hold no infinity."""
    if stored is None or math.isnan(value):
        return stored is not None and math.isnan(stored)
    largest = sys.float_info.max
    return max(-largest, min(stored, largest)) == max(-largest, min(value, largest))
