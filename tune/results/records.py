"""What a study keeps of its trials: a JSON record each, and the tables made from them."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from guard.config.schema import Config, type_hints
from guard.errors import ConfigError
from guard.pipeline import TrialResult
from guard.robustness.flags import flags_of
from guard.robustness.measures import CLEAN, ROBUST
from guard.trial import TrialConfig
from guard.trial_stages import rung_of
from tune.causes import unwrapped
from tune.results import wording

OBJECTIVES = (CLEAN.on("validation"), ROBUST.on("validation"))
SEEDS = ("seed", "student.seed", "evaluation.seed")
"""Fields of a trial that only repeat it."""
SEARCH, CONFIRMATION = "search", "confirmation"
FOLDERS = {SEARCH: "trials", CONFIRMATION: "confirmation"}
STATUSES = ("complete", "diverged", "stopped", "failed")
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "trial": int,
    "control": bool,
    "params": dict,
    "config": dict,
    "metrics": dict,
    "seconds": (int, float),
    "ended": (int, float),
    "waiting_seconds": (int, float),
    "stages": list,
    "paths": dict,
}
"""What a field of a record is in JSON, where it is no text."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished trial. Metrics are named "<split or part>/<metric>", accuracies in [0, 1]."""

    trial: int
    status: str
    """complete; diverged: ended early; stopped: ended early by the search, at a rung, from which it
    may go on; failed: a stage raised."""
    reason: str
    control: bool
    """Whether it is the unregularized baseline of its method and IPC."""
    params: Mapping[str, Any]
    """What sets it apart in its study, by path."""
    config: Mapping[str, Any]
    """All of it (`TrialConfig.to_dict`)."""
    fingerprint: str
    """Of the config."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall-clock time, waiting included."""
    waiting_seconds: float = 0.0
    """Of `seconds`, the part in which nothing was computed for it."""
    stages: tuple[Mapping[str, Any], ...] = ()
    """Name, key, seconds and whether this trial built it (`guard.pipeline.StageRecord`)."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Absolute folders by part: teacher, distilled, student, "test verdicts"."""
    phase: str = SEARCH
    """search, or confirmation: a trial of the search run again with another seed."""
    ended: float = 0.0
    """Seconds since the epoch; 0 in records of before that was kept."""

    @classmethod
    def of(
        cls,
        result: TrialResult,
        *,
        trial: int,
        config: TrialConfig,
        params: Mapping[str, Any],
        control: bool,
        phase: str = SEARCH,
    ) -> Record:
        """What a trial has come to."""
        return cls(
            trial=trial,
            status=result.status,
            reason=result.reason,
            control=control,
            params=params,
            config=config.to_dict(),
            fingerprint=config.fingerprint(),
            metrics=dict(result.metrics),
            seconds=result.seconds,
            waiting_seconds=result.waiting_seconds,
            stages=tuple(asdict(stage) for stage in result.stages),
            paths={name: str(path) for name, path in result.paths.items()},
            phase=phase,
            ended=time.time(),
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Record:
        """Inverse of `asdict`, after JSON: fields that a config did not have then have their
        defaults. Records share the sections that are the same.

        Raises ValueError, with a reason, for what is no record that this version can read.
        """
        known = {own.name: own.default is own.default_factory is MISSING for own in fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(f"it has a field {name!r}, which this version does not know")
        for name, is_needed in known.items():
            if is_needed and name not in values:
                raise ValueError(f"it has no field {name!r}")
        for name, value in values.items():
            if not isinstance(value, KINDS.get(name, str)):
                raise ValueError(f"its {name} cannot be {value!r:.60}")
        if values["status"] not in STATUSES:
            raise ValueError(f"its status cannot be {values['status']!r:.60}")
        numbers = values.get("metrics", {}).values()
        stages = values.get("stages", ())
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError("its metrics are not all numbers")
        if not all(isinstance(s, dict) and {"seconds", "built"} <= s.keys() for s in stages):
            raise ValueError("its stages do not all say their seconds")
        sections = {name: _section(name, json.dumps(v)) for name, v in values["config"].items()}
        checked = TrialConfig.from_dict({name: own for name, (own, _) in sections.items()})
        config = {name: plain for name, (_, plain) in sections.items()}
        if not config.keys() >= _config_names():
            config = {**checked.to_dict(), **config}
        return cls(**{**values, "config": config, "stages": tuple(stages)})

    @classmethod
    def failed(
        cls,
        reason: str,
        *,
        trial: int,
        config: TrialConfig,
        params: Mapping[str, Any],
        control: bool,
        phase: str = SEARCH,
    ) -> Record:
        """A trial of which a stage raised; the reason in one line (`one_line`)."""
        return cls(
            trial=trial,
            status="failed",
            reason=reason,
            control=control,
            params=params,
            config=config.to_dict(),
            fingerprint=config.fingerprint(),
            phase=phase,
            ended=time.time(),
        )

    def after(self, earlier: Record | None) -> Record:
        """With what an earlier leg of the same trial has cost."""
        if earlier is None or earlier.fingerprint != self.fingerprint:
            return self
        built = {stage["key"] for stage in earlier.stages if stage["built"]}
        stages = [{**s, "built": s["built"] or s["key"] in built} for s in self.stages]
        return replace(
            self,
            stages=tuple(stages),
            seconds=self.seconds + earlier.seconds,
            waiting_seconds=self.waiting_seconds + earlier.waiting_seconds,
        )

    @property
    def seconds_of_stages(self) -> dict[str, float]:
        """What each stage that it used took, whoever computed it, by the stage's address."""
        return {f"{own['name']}/{own['key']}": float(own["seconds"]) for own in self.stages}

    @property
    def rung(self) -> int | None:
        """Where a search stopped it, from 1; None for one that it did not stop."""
        if self.status != "stopped":
            return None
        return max(map(rung_of, self.metrics), default=0)

    @property
    def title(self) -> str:
        """Its configuration in words, with what sets it apart in its study."""
        return wording.title(TrialConfig.from_dict(self.config), self.params)

    @property
    def label(self) -> str:
        """A name that no other run of the study has."""
        number = str(self.trial)
        return number if self.is_search else f"{number} seed {self.config['seed']}"

    @property
    def is_search(self) -> bool:
        return self.phase == SEARCH

    @property
    def split(self) -> str:
        """What the run is for: validation in a search, test where nothing is selected."""
        return "validation" if OBJECTIVES[0] in self.metrics else "test"

    @property
    def accuracies(self) -> tuple[float | None, float | None]:
        """Clean and robust accuracy on its split."""
        clean, robust = (measure.on(self.split) for measure in (CLEAN, ROBUST))
        return self.metrics.get(clean), self.metrics.get(robust)

    @property
    def flags(self) -> list[str]:
        """Signs that its accuracies are not to be taken as they are."""
        return flags_of(self.metrics)

    @property
    def finished(self) -> bool:
        return self.status in ("complete", "diverged", "stopped")

    @property
    def is_done(self) -> bool:
        """Whether it is finished, and the verdicts that comparisons read are still there."""
        return self.finished and all(Path(path).is_dir() for path in self.verdicts)

    @property
    def verdicts(self) -> list[str]:
        """The folders of its verdicts."""
        return [path for name, path in self.paths.items() if name.endswith("verdicts")]

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


@functools.lru_cache(maxsize=4096)
def _section(name: str, text: str) -> tuple[Any, Any]:
    """A section of a trial's config from JSON, checked, and as plain values with its defaults;
    twice the same for anything else. Raises ConfigError."""
    hint, value = type_hints(TrialConfig).get(name), json.loads(text)
    if not (isinstance(hint, type) and issubclass(hint, Config)):
        return value, value
    try:
        checked = hint.from_dict(value)
    except ConfigError as error:
        raise error.under(name) from None
    return checked, checked.to_dict()


@functools.cache
def _config_names() -> frozenset[str]:
    return frozenset(TrialConfig().to_dict())


def one_line(error: BaseException) -> str:
    """The cause of an error that Ray wrapped, maybe more than once, without its trace."""
    cause = unwrapped(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else ''}"
