"""Configurations, runs, records and comparisons for tests, complete but for what a test names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from guard.artifacts import ArtifactStore
from guard.config.evaluation import attacks_at
from guard.pipeline import TrialResult
from guard.robustness.measures import CLEAN, ROBUST
from guard.robustness.verdicts import Verdicts
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from tune.results.records import Record
from tune.results.statistics import Estimate
from tune.runs import Run

SAMPLES = 200

TINY: dict[str, Any] = {
    "model.width": 8,
    "model.depth": 3,
    "ipc": 2,
    "squeeze": {"epochs": 2, "optimizer": "adamw", "lr": 0.01},
    "regularizer.fraction": 0.25,
    "sre2l": {"iterations": 5, "chunk": 2},
    "student.train": {"epochs": 3, "batch_size": 7, "augment": ["crop"]},
    "student.mix": "cutmix",
    "evaluation": {"attacks": ["pgd2"], "max_samples": 50, "eps": 0.05},
}
"""A trial of seconds."""


def configured(fields: Mapping[str, Any] | None = None, *, control: bool = False) -> TrialConfig:
    """The default trial with other fields, by path, or its control."""
    config = TrialConfig().override(fields or {})
    return config.unregularized() if control else config


def planned(trial: int = 0, config: TrialConfig | None = None, **changes: Any) -> Run:
    """A planned trial."""
    own = config or configured()
    plain = Run(trial=trial, config=own, params={}, control=not own.regularizer.active)
    return replace(plain, **changes)


def scores(clean: float, robust: float, *splits: str) -> dict[str, float]:
    """Metrics of 100 samples of each split."""
    found = {}
    for split in splits:
        found |= {CLEAN.on(split): clean, ROBUST.on(split): robust, f"{split}/num_samples": 100.0}
    return found


def record(
    trial: int = 0,
    clean: float = 0.9,
    robust: float = 0.4,
    config: TrialConfig | None = None,
    **changes: Any,
) -> Record:
    """A trial of a search, on both splits alike. One that is not complete has no metrics."""
    own = config or configured()
    complete = changes.get("status", "complete") == "complete"
    fields = {
        "trial": trial,
        "status": "complete",
        "reason": "" if complete else "why",
        "control": not own.regularizer.active,
        "params": {},
        "config": own.to_dict(),
        "fingerprint": own.fingerprint(),
        "metrics": scores(clean, robust, "validation", "test") if complete else {},
    }
    return Record(**{**fields, **changes})


def failed(of: Run, reason: str) -> Record:
    """What is kept of a run that raised."""
    about = {name: getattr(of, name) for name in ("trial", "config", "params", "control", "phase")}
    return Record.failed(reason, **about)


def judged(
    root: Path,
    run: Run,
    clean: float,
    robust: float,
    *,
    splits: tuple[str, ...] = ("test",),
    **changes: Any,
) -> Record:
    """A run that is done, its verdicts in the root: of 200 samples these shares are right, without
    an attack and under every one."""
    numbers = torch.arange(SAMPLES)
    right, left = numbers < round(clean * SAMPLES), numbers < round(robust * SAMPLES)
    parts = attacks_at(run.config.evaluation)
    survived = {part: left.clone() for part in parts}
    distances = {name: torch.full((SAMPLES,), math.inf) for eps, name in parts if eps == math.inf}
    verdicts = Verdicts(clean=right, survived=survived, distances=distances)

    def save(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        verdicts.save(folder / "verdicts.safetensors")
        return {}

    last = next(iter(TrialStages.of(run.config).verdicts.values()))[-1]
    place = ArtifactStore(root / str(run.trial)).get_or_build(last, save).path
    shares = (float(right.float().mean()), float(left.float().mean()))
    fields: dict[str, Any] = {
        "params": run.params,
        "control": run.control,
        "phase": run.phase,
        "metrics": {**scores(*shares, *splits), "reliability/flags": 0.0},
        "paths": {f"{split} verdicts": str(place) for split in splits},
    }
    return record(run.trial, config=run.config, **{**fields, **changes})


def ended(
    status: str = "complete", reason: str = "", metrics: Mapping[str, float] | None = None
) -> TrialResult:
    """What the pipeline says of a trial."""
    return TrialResult(
        status=status,
        reason=reason,
        metrics=metrics or {CLEAN.on("test"): 0.9},
        seconds=1.0,
        waiting_seconds=0.0,
        stages=(),
        paths={},
    )


def estimated(mean: float, low: float | None = None, high: float | None = None) -> Estimate:
    """Over three seeds, 0.05 to both sides where no ends are given."""
    return Estimate(
        mean=mean,
        low=mean - 0.05 if low is None else low,
        high=mean + 0.05 if high is None else high,
        distillation_std=0.02,
        student_std=math.nan,
        num_distillations=3,
        num_students=3,
        num_samples=359,
    )
