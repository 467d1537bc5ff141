"""What a study keeps of its trials: a JSON record each, and the tables made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from guard.config import RegularizerConfig
from guard.pipeline import TrialResult
from guard.robustness.flags import flags_of
from guard.trial import TrialConfig

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
    def split(self) -> str:
        """What the run is for: validation in a search, test where nothing is selected."""
        return "validation" if OBJECTIVES[0] in self.metrics else "test"

    @property
    def accuracies(self) -> tuple[float | None, float | None]:
        """Clean and robust accuracy on its split."""
        clean, robust = (f"{self.split}/{name}" for name in ("clean_accuracy", "robust_accuracy"))
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
