"""What MLflow is to have of a finished trial: a function of its record and its files."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.trial import TrialConfig
from tune.results import wording
from tune.results.folder import StudyFolder
from tune.results.records import SEEDS, Record
from tune.space import reads
from tune.tracking.held import THIS_RUN, Held, Images, Point, Student
from tune.tracking.products import MAX_LENGTH, distilled_files, images_of, note_of, student_of
from tune.tracking.view import ARM, REASON, STATUS

STUDY, TRIAL, FINGERPRINT = "guard.study", "guard.trial", "guard.fingerprint"
ID = "guard.id"
"""Of the study's folder: two studies of one name may share a server."""
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
CURVES = ("loss", "accuracy", "lr")
RELIABILITY = "reliability"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run as it is to be. What search finds of it says whether it is: no tag says so alone."""

    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: tuple[Point, ...]
    """Metrics, and curves over epochs in order."""
    images: tuple[Images, ...]
    """What it reads, and what it makes of that."""
    student: Student | None
    files: Mapping[str, Path | bytes]
    """Artifacts by path."""

    @property
    def folders(self) -> set[str]:
        """Of the artifacts; "" is the top."""
        return {path.rpartition("/")[0] for path in self.files}

    def tags_missing(self, run: Held) -> dict[str, str]:
        own = {k: v.replace(THIS_RUN, run.run_id) for k, v in self.tags.items()}
        return {k: v for k, v in own.items() if run.tags.get(k, "") != v}

    def params_missing(self, run: Held) -> dict[str, str]:
        """Those that are there are right: MLflow changes none."""
        return {k: v for k, v in self.params.items() if k not in run.params}

    def points_missing(self, run: Held) -> list[Point]:
        """All of a metric whose last value is another one, of the run or of its student."""
        there = {last.name for last in lasting(self.points) if has(run, last)}
        return [point for point in self.points if point.name not in there]

    def images_missing(self, run: Held) -> list[Images]:
        return [own for own in self.images if own.key not in run.images]

    def files_missing(self, sizes: Mapping[str, int]) -> dict[str, Path | bytes]:
        """Those that are not there, or of another size."""
        return {k: v for k, v in self.files.items() if sizes.get(k) != size(v)}

    def holds(self, run: Held) -> bool:
        """Whether the run has everything, as far as a search says."""
        missing = (self.tags_missing(run), self.params_missing(run), self.points_missing(run))
        lacking = (*missing, self.images_missing(run))
        is_made = self.student is None or is_delivered(run, self.student)
        return run.status == self.status and not run.deleted and is_made and not any(lacking)


def is_delivered(run: Held, student: Student) -> bool:
    """Whether its student is there, and known to be its own."""
    model = run.model
    if model is None:
        return False
    return model.is_ready and model.model_id in run.outputs and student.is_tagged(model)


def lasting(points: Iterable[Point]) -> Iterable[Point]:
    """The last of each metric."""
    return {point.name: point for point in points}.values()


def has(run: Held, point: Point) -> bool:
    """Whether a run, and its student if it is one of this, have the value."""
    own = same(run.metrics.get(point.name), point.value)
    ranked = run.model.metrics if run.model and point.of_student else None
    return own and (ranked is None or same(ranked.get(point.name), point.value))


def differs(run: Held, point: Point) -> bool:
    """Whether a run has another value."""
    return point.name in run.metrics and not same(run.metrics[point.name], point.value)


def wanted(
    record: Record, folder: StudyFolder, tags: Mapping[str, str], largest_set: int
) -> Wanted:
    """Of a record; the tags of a study's runs are added to its own. largest_set: MiB of images that
    are delivered."""
    config = TrialConfig.from_dict(record.config)
    seconds = {"seconds": record.seconds, "stage_seconds": record.stage_seconds}
    metrics = {**record.metrics, **seconds} if record.finished else {}
    places = {part: folder.output / path for part, path in record.paths.items()}
    ended = {
        STATUS: record.status,
        REASON: record.reason[:MAX_LENGTH],
        "guard.phase": record.phase,
        "guard.flags": "; ".join(record.flags)[:MAX_LENGTH],
        NOTE: note_of(record, places, largest_set),
        ARM: arm(record, config),
    }
    images = images_of(config, places, largest_set)
    trial = trial_tags(record.label, record.fingerprint, config.seed)
    of_study = {name: text for name, text in tags.items() if name != PARENT}
    return Wanted(
        name=wording.title(config, record.params),
        status="FINISHED" if record.finished else "FAILED",
        tags={**tags, **trial, **ended},
        params=params_of(config, record.params),
        points=(
            *(measured(name, float(value), config, images[0]) for name, value in metrics.items()),
            *curves(folder, places.get("teacher"), "teacher"),
            *curves(folder, places.get("student"), "student"),
        ),
        images=images,
        student=student_of(record, config, {**of_study, **trial}) if "student" in places else None,
        files={
            "config.json": config.to_json().encode(),
            **distilled_files(record, config, places, largest_set),
        },
    )


def arm(record: Record, config: TrialConfig) -> str:
    """What the trial has in common with those that only repeat it: what sets it apart comes
    first."""
    apart = {path: value for path, value in record.params.items() if path not in SEEDS}
    place = wording.place(config)
    return wording.joined(wording.title(config, apart).removeprefix(f"{place}, "), place)


def measured(name: str, value: float, config: TrialConfig, real: Images) -> Point:
    """A metric of a trial; what is found on a split of the data, and how far that can be believed,
    is the student's own."""
    part = name.partition("/")[0]
    on_split = part in config.evaluation.splits
    is_own = on_split or part == RELIABILITY
    return Point(name, value, of_student=is_own, images=real.key if on_split else None)


def trial_tags(label: str, fingerprint: str, seed: int) -> dict[str, str]:
    """Which trial a run is of."""
    return {TRIAL: label, FINGERPRINT: fingerprint, "seed": str(seed)}


def params_of(config: TrialConfig, own: Iterable[str] = ()) -> dict[str, str]:
    """The fields that the trial reads and that are set, as text: MLflow takes a hundred at once.
    All of them are in config.json.

    own: paths that set the trial apart in its study, which come first.
    """
    penalties = {
        "regularizer.": config.regularizer,
        wording.STUDENTS: config.student.regularizer,
    }
    experts = getattr(config.own, "experts", None)
    if experts is not None:
        penalties[f"{config.method}.experts.adversary."] = experts.adversary

    def is_read(path: str) -> bool:
        for prefix, penalty in penalties.items():
            if path.startswith(prefix):
                return path.removeprefix(prefix) in {"kind"} | penalty.fields_used()
        return reads(config, path)

    flat = config.flat()
    first = {path: flat[path] for path in own if path in flat}
    return {
        path: str(value)[:MAX_LENGTH]
        for path, value in {**first, **config.stated()}.items()
        if value is not None and is_read(path)
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


def size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def same(stored: float | None, value: float) -> bool:
    """Whether it is what MLflow makes of the value: databases hold no infinity."""
    if stored is None or math.isnan(value):
        return stored is not None and math.isnan(stored)
    largest = sys.float_info.max
    return max(-largest, min(stored, largest)) == max(-largest, min(value, largest))
