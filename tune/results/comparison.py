"""Configurations compared over seeds and test samples, each with its unregularized control."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard.config import EvaluationConfig, RegularizerConfig
from guard.trial import TrialConfig
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.statistics import Estimate, Run, difference, estimate

Values = Mapping[Run, NDArray[np.float64]]
SEEDS = ("seed", "student.seed")
"""Fields of a trial that only repeat it."""
TITLED = ("method", "ipc", "regularizer.kind", "regularizer.weight", "regularizer.h")
"""Fields that an arm's title says in words of their own."""


@dataclass(frozen=True)
class Arm:
    """One configuration on several seeds."""

    config: TrialConfig
    """With all seeds 0."""
    records: Mapping[Run, Record] = field(default_factory=dict)
    """By (distillation seed, student seed)."""
    settings: str = ""
    """Fields in which the arms of a study differ, other than method, IPC, penalty, λ and h, where
    they are not as usual in that study."""

    @property
    def penalty(self) -> str:
        """The regularizer in words, e.g. "curvature (λ = 0.3, h = 0.1)"."""
        return penalty_text(self.config.regularizer)

    @property
    def place(self) -> str:
        """Where the penalty acts, e.g. "sre2l, IPC 10"."""
        config = self.config
        return f"{config.method}, IPC {config.ipc}" if config.distils else config.method

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.place, self.penalty, self.settings)))

    def accuracies(self, name: str, split: str = "test") -> list[float]:
        """Of "clean" or "robust", a value a run."""
        return [record.metrics[f"{split}/{name}_accuracy"] for record in self.records.values()]

    def values(self, split: str) -> Mapping[str, Values]:
        """0 or 1 of each sample, by what was measured: "clean" (right without an attack), "robust"
        (right under every attack at the search's radius), "robust/eps_<r>" at another radius, and
        "robust/<attack>" where each attack saw every sample."""
        from guard.robustness.evaluate import Verdicts, figures, radius_name

        own: EvaluationConfig = self.config.evaluation
        found: dict[str, dict[Run, NDArray[np.float64]]] = {}
        for run, record in self.records.items():
            path = Path(record.paths[f"{split} verdicts"]) / "verdicts.safetensors"
            verdicts = Verdicts.load(path)
            measured = {"clean": verdicts.clean, "robust": verdicts.robust(own.eps)}
            for eps in own.radii:
                if eps != own.eps:
                    measured[f"robust/{radius_name(eps)}"] = verdicts.robust(eps)
            for name in () if own.cascade else figures(own, own.eps):
                measured[f"robust/{name}"] = verdicts.under(own.eps, name)
            for name, verdict in measured.items():
                found.setdefault(name, {})[run] = verdict.numpy().astype(np.float64)
        return found


@dataclass(frozen=True)
class Comparison:
    """An arm's accuracies, and what it has more than its control."""

    arm: Arm
    found: Mapping[str, Estimate]
    """By what was measured (`Arm.values`)."""
    gains: Mapping[str, Estimate]
    """Paired differences to the control; empty for a control, and without one."""

    @property
    def clean(self) -> Estimate:
        return self.found["clean"]

    @property
    def robust(self) -> Estimate:
        return self.found["robust"]

    @property
    def measured(self) -> list[str]:
        """Clean, and the worst case at each radius."""
        return [n for n in self.found if "/" not in n or n.startswith("robust/eps_")]

    @property
    def attacks(self) -> list[str]:
        """Each attack alone, between clean and the worst case; empty for a cascade."""
        alone = [n for n in self.found if "/" in n and not n.startswith("robust/eps_")]
        return ["clean", *alone, "robust"] if alone else []

    def at(self, eps: float) -> Estimate:
        """Robust accuracy at one of the radii."""
        from guard.robustness.evaluate import radius_name

        is_search = eps == self.arm.config.evaluation.eps
        return self.robust if is_search else self.found[f"robust/{radius_name(eps)}"]

    @property
    def clean_gain(self) -> Estimate | None:
        return self.gains.get("clean")

    @property
    def robust_gain(self) -> Estimate | None:
        return self.gains.get("robust")

    @property
    def is_control(self) -> bool:
        return not self.arm.config.regularizer.active

    def row(self) -> dict[str, Any]:
        """A row of a table, accuracies in [0, 1]."""
        config = self.arm.config
        penalty: RegularizerConfig = config.regularizer
        used = penalty.fields_used() if penalty.active else frozenset()
        facts: dict[str, Any] = {
            "method": config.method,
            "ipc": config.ipc,
            "regularizer": penalty.title,
            "weight": penalty.weight if "weight" in used else None,
            "h": penalty.h if "h" in used else None,
            "settings": self.arm.settings,
            "seeds": self.clean.num_distillations,
            "students": self.clean.num_students,
            "samples": self.clean.num_samples,
        }
        for name, found in self.found.items():
            facts |= columns(name, found)
            gain = self.gains.get(name)
            facts |= {k: v for k, v in columns(f"{name}_gain", gain).items() if "std" not in k}
        return facts


def shared_place(comparisons: Iterable[Comparison]) -> str:
    """The method and IPC of all arms; "" where they differ."""
    places = {comparison.arm.place for comparison in comparisons}
    return places.pop() if len(places) == 1 else ""


def short_titles(comparisons: Sequence[Comparison]) -> list[str]:
    """The arms' titles without the place that they share."""
    place = shared_place(comparisons)
    return [comparison.arm.title.removeprefix(f"{place}, ") for comparison in comparisons]


def columns(name: str, found: Estimate | None) -> dict[str, float | None]:
    ends = ("distillation_std", "student_std", "low", "high")
    named = {name: found.mean if found else None}
    return named | {f"{name}_{end}": getattr(found, end) if found else None for end in ends}


def penalty_text(penalty: RegularizerConfig) -> str:
    used = penalty.fields_used() if penalty.active else frozenset()
    signs = {"weight": f"λ = {penalty.weight:.3g}", "h": f"h = {penalty.h:.3g}"}
    numbers = ", ".join(text for name, text in signs.items() if name in used)
    return penalty.title + (f" ({numbers})" if numbers else "")


def arms(records: Iterable[Record]) -> list[Arm]:
    """Complete trials that differ in their seeds alone, together; in the order of the first."""
    found: dict[str, tuple[TrialConfig, dict[Run, Record]]] = {}
    for record in records:
        if record.status == "complete":
            config = TrialConfig.from_dict(record.config)
            run = (config.seed, config.student.seed)
            seedless = config.override(dict.fromkeys(SEEDS, 0))
            found.setdefault(seedless.fingerprint(), (seedless, {}))[1].setdefault(run, record)
    return named([Arm(config, runs) for config, runs in found.values()])


Field = tuple[str, str]
"""The kind of regularizer that a field is of, "" for any other field, and its path."""


def named(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with their `settings`."""
    fields = varied(arms)
    expected = usual(fields)
    settings = [
        {
            path: value
            for (kind, path), value in read_fields(arm.config).items()
            if (kind, path) in fields and json.dumps(value) != expected.get((kind, path))
        }
        for arm in arms
    ]
    return [replace(arm, settings=in_words(own)) for arm, own in zip(arms, settings, strict=True)]


def usual(fields: Mapping[Field, Counter[str]]) -> dict[Field, str]:
    """The value that more than two thirds of the arms that read a varied field have."""
    found = {}
    for name, counts in fields.items():
        text, count = counts.most_common(1)[0]
        if 3 * count > 2 * counts.total():
            found[name] = text
    return found


def elsewhere(arms: Sequence[Arm]) -> str:
    """What holds where an arm's title does not say otherwise, as a sentence; "" for nothing."""
    values = {path: json.loads(text) for (_, path), text in usual(varied(arms)).items()}
    return f"Where nothing else is said: {in_words(values)}." if values else ""


def varied(arms: Sequence[Arm]) -> dict[Field, Counter[str]]:
    """Fields without a place in the title in which arms that read them differ, and how many have
    which value (as JSON)."""
    counts: dict[Field, Counter[str]] = {}
    for arm in arms:
        for name, value in read_fields(arm.config).items():
            counts.setdefault(name, Counter())[json.dumps(value)] += 1
    return {k: found for k, found in counts.items() if len(found) > 1 and k[1] not in TITLED}


def in_words(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {plain_number(value)}" for path, value in fields.items())


def read_fields(config: TrialConfig) -> dict[Field, Any]:
    """What a trial of this config reads, as far as its regularizer decides it, and the
    regularizer's name does not say it."""
    penalty, prefix = config.regularizer, "regularizer."
    is_plain = penalty.active and penalty.title == penalty.kind
    used = penalty.fields_used() if is_plain else frozenset()
    found: dict[Field, Any] = {}
    for path, value in config.flat().items():
        if not path.startswith(prefix):
            found["", path] = value
        elif path.removeprefix(prefix) in used:
            found[penalty.kind, path] = value
    return found


def plain_number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def compare(records: Iterable[Record], split: str = "test") -> list[Comparison]:
    """Every arm of the records, and its gain over its control on the seeds that both have."""
    every = arms(records)
    values = {arm.config.fingerprint(): arm.values(split) for arm in every}
    comparisons = []
    for arm in every:
        own = values[arm.config.fingerprint()]
        control = arm.config.unregularized().fingerprint()
        other = values.get(control, {}) if arm.config.regularizer.active else {}
        gains = {name: gain(own[name], other[name]) for name in own if name in other}
        known = {name: found for name, found in gains.items() if found is not None}
        found = {name: estimate(runs) for name, runs in own.items()}
        comparisons.append(Comparison(arm, found, known))
    return comparisons


def compared(folder: StudyFolder) -> list[Comparison]:
    """What a study says in the end: its confirmation; without one, its trials where they were not
    chosen by what they are judged on, test images alone, or went over seeds; otherwise nothing."""
    confirmations = folder.confirmations()
    if confirmations:
        return compare(confirmations)
    records = folder.records()
    on_test = [r for r in records if r.status == "complete" and "test verdicts" in r.paths]
    unseen = all("validation verdicts" not in r.paths for r in on_test)
    over_seeds = any(len(arm.records) > 1 for arm in arms(on_test))
    return compare(on_test) if unseen or over_seeds else []


def gain(ours: Values, theirs: Values) -> Estimate | None:
    """The paired difference on the runs that both have; None if there is none."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    return difference({run: ours[run] for run in shared}, {run: theirs[run] for run in shared})


def versus(ours: Comparison, theirs: Comparison, measured: str = "robust") -> Estimate | None:
    """The paired difference of two arms on the runs that both have; None if there is none."""
    return gain(ours.arm.values("test")[measured], theirs.arm.values("test")[measured])
