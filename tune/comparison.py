"""Configurations compared over seeds and test samples, each with its unregularized control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard.config import RegularizerConfig, TrialConfig
from guard.statistics import Estimate, Run, difference, estimate
from tune.records import Record, StudyFolder

Values = Mapping[Run, NDArray[np.float64]]


@dataclass(frozen=True)
class Arm:
    """One configuration on several seeds."""

    config: TrialConfig
    """With all seeds 0."""
    records: Mapping[Run, Record] = field(default_factory=dict)
    """By (distillation seed, student seed)."""

    def verdicts(self, split: str) -> tuple[Values, Values]:
        """Right without an attack, and right under the suite, sample by sample, of each run."""
        from guard.evaluate import Verdicts

        clean, robust = {}, {}
        for run, record in self.records.items():
            path = Path(record.paths[f"{split} verdicts"]) / "verdicts.safetensors"
            verdicts = Verdicts.load(path)
            clean[run] = verdicts.clean.numpy().astype(np.float64)
            robust[run] = verdicts.robust(self.config.evaluation.eps).numpy().astype(np.float64)
        return clean, robust


@dataclass(frozen=True)
class Comparison:
    """An arm's accuracies, and what it has more than its control (None: it is one, or has none)."""

    arm: Arm
    clean: Estimate
    robust: Estimate
    clean_gain: Estimate | None
    robust_gain: Estimate | None

    @property
    def gains(self) -> tuple[Estimate | None, Estimate | None]:
        return self.clean_gain, self.robust_gain

    def row(self) -> dict[str, Any]:
        """A row of a table, accuracies in [0, 1]."""
        config = self.arm.config
        penalty: RegularizerConfig = config.regularizer
        facts: dict[str, Any] = {
            "method": config.method,
            "ipc": config.ipc,
            "regularizer": penalty.kind if penalty.active else "none",
            "weight": penalty.weight if penalty.active else 0.0,
            "h": penalty.h if penalty.active and "h" in penalty.fields_used() else None,
            "seeds": self.clean.num_distillations,
            "students": self.clean.num_students,
            "samples": self.clean.num_samples,
        }
        parts = {
            "clean": self.clean,
            "robust": self.robust,
            "clean_gain": self.clean_gain,
            "robust_gain": self.robust_gain,
        }
        for name, found in parts.items():
            facts[name] = found.mean if found else None
            for end in ("distillation_std", "student_std", "low", "high"):
                if end.endswith("std") and name.endswith("gain"):
                    continue
                facts[f"{name}_{end}"] = getattr(found, end) if found else None
        return facts


def arms(records: Iterable[Record]) -> list[Arm]:
    """Complete trials that differ in their seeds alone, together; in the order of the first."""
    found: dict[str, tuple[TrialConfig, dict[Run, Record]]] = {}
    for record in records:
        if record.status == "complete":
            config = TrialConfig.from_dict(record.config)
            run = (config.seed, config.student.seed)
            seedless = config.override({"seed": 0, "student.seed": 0})
            found.setdefault(seedless.fingerprint(), (seedless, {}))[1].setdefault(run, record)
    return [Arm(config, runs) for config, runs in found.values()]


def compare(records: Iterable[Record], split: str = "test") -> list[Comparison]:
    """Every arm of the records, and its gain over its control on the seeds that both have."""
    every = arms(records)
    verdicts = {arm.config.fingerprint(): arm.verdicts(split) for arm in every}
    comparisons = []
    for arm in every:
        own = verdicts[arm.config.fingerprint()]
        other = verdicts.get(arm.config.unregularized().fingerprint())
        is_control = not arm.config.regularizer.active
        gains = [None, None] if is_control or other is None else list(map(gain, own, other))
        comparisons.append(Comparison(arm, estimate(own[0]), estimate(own[1]), *gains))
    return comparisons


def compared(folder: StudyFolder) -> list[Comparison]:
    """What a study says in the end: its confirmation; without one, its trials where the search
    itself went over seeds; otherwise nothing."""
    confirmations = folder.confirmations()
    if confirmations:
        return compare(confirmations)
    records = folder.records()
    on_test = [r for r in records if "test verdicts" in r.paths]
    return compare(on_test) if any(len(arm.records) > 1 for arm in arms(on_test)) else []


def gain(ours: Values, theirs: Values) -> Estimate | None:
    """The paired difference on the runs that both have; None if there is none."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    return difference({run: ours[run] for run in shared}, {run: theirs[run] for run in shared})


def markdown(comparisons: list[Comparison]) -> str:
    """The comparisons as a table for people, in percent; a gain is bold where its interval leaves
    zero out."""
    columns = ("method", "IPC", "regularizer", "seeds", "clean", "robust", "Δ clean", "Δ robust")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for comparison in comparisons:
        row = comparison.row()
        step = f", h = {row['h']:.3g}" if row["h"] is not None else ""
        name = row["regularizer"]
        if name != "none":
            name += f" (λ = {row['weight']:.3g}{step})"
        cells = [
            row["method"],
            row["ipc"],
            name,
            row["seeds"],
            percent(comparison.clean),
            percent(comparison.robust),
            *map(emphasized, comparison.gains),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def percent(found: Estimate) -> str:
    """The mean ± the deviation between distillation seeds."""
    spread = f" ± {100 * found.distillation_std:.1f}" if found.num_distillations > 1 else ""
    return f"{100 * found.mean:.1f}{spread}"


def signed_percent(found: Estimate | None) -> str:
    """The mean and its 95 % interval."""
    if found is None:
        return ""
    mean = f"{100 * found.mean:+.1f}"
    ends = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{mean} {ends}"


def emphasized(found: Estimate | None) -> str:
    """`signed_percent`, its mean bold where the interval leaves zero out."""
    text = signed_percent(found)
    if found is None or not found.is_clear:
        return text
    mean, ends = text.split(" ", 1)
    return f"**{mean}** {ends}"
