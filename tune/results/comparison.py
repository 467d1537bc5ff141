"""Configurations compared over seeds and test samples, each with its unregularized control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard.artifacts import verified
from guard.robustness.measures import CLEAN, ROBUST, Measure, singled_out, worst_cases
from guard.trial import TrialConfig
from tune.results import wording
from tune.results.folder import StudyFolder
from tune.results.records import SEEDS, Record
from tune.results.statistics import CONFIDENCE, Estimate, SeedPair, difference, estimate

Values = Mapping[SeedPair, NDArray[np.float64]]
ATTACK_SEED = "evaluation.seed"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration on several seeds."""

    config: TrialConfig
    """With every seed 0 that only repeats it."""
    records: Mapping[SeedPair, Record] = field(default_factory=dict)
    settings: str = ""
    """What else sets it apart from the other arms of a study (`wording.told_apart`)."""

    @property
    def penalty(self) -> str:
        return wording.penalty(self.config.regularizer)

    @property
    def place(self) -> str:
        return wording.place(self.config)

    @property
    def title(self) -> str:
        return wording.joined(wording.title(self.config), self.settings)

    def accuracies(self, measure: Measure) -> list[float]:
        """On test images, in [0, 1], one a run. Raises KeyError for what was not measured there."""
        return [record.metrics[measure.on("test")] for record in self.records.values()]

    def values(self, split: str) -> Mapping[Measure, Values]:
        """0 or 1 of each sample, (N,): clean, the worst case at each radius, and at the search's
        radius each attack alone where every attack saw every sample."""
        from guard.robustness.verdicts import Verdicts, right  # they load torch

        own = self.config.evaluation
        alone = () if own.cascade else singled_out(own, ROBUST)
        wanted = (CLEAN, *worst_cases(own), *alone)
        found: dict[Measure, dict[SeedPair, NDArray[np.float64]]] = {m: {} for m in wanted}
        for seeds, record in self.records.items():
            made = verified(Path(record.paths[f"{split} verdicts"]))
            verdicts = Verdicts.load(made.path / "verdicts.safetensors")
            for measure in wanted:
                samples = right(verdicts, measure, own).numpy()
                found[measure][seeds] = samples.astype(np.float64)
        return found


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm's accuracies, and what it has more than its control."""

    arm: Arm
    found: Mapping[Measure, Estimate]
    gains: Mapping[Measure, Estimate]
    """Paired differences to the control; empty for a control, and without one."""
    together: Mapping[Measure, tuple[float, float]] = field(default_factory=dict)
    """Of each of them, the ends of an interval that holds for all of a table at once."""

    @property
    def clean(self) -> Estimate:
        return self.found[CLEAN]

    @property
    def robust(self) -> Estimate:
        return self.found[ROBUST]

    @property
    def worst_cases(self) -> list[Measure]:
        """Clean, and the worst case at each radius."""
        return [measure for measure in self.found if measure.attack is None]

    @property
    def attacks(self) -> list[Measure]:
        """Each attack alone, between clean and the worst case; empty for a cascade."""
        alone = [measure for measure in self.found if measure.attack is not None]
        return [CLEAN, *alone, ROBUST] if alone else []

    def at(self, eps: float) -> Estimate:
        """Robust accuracy at one of the radii, in pixels."""
        is_search = eps == self.arm.config.evaluation.eps
        return self.found[ROBUST if is_search else Measure(kind="robust", eps=eps)]

    @property
    def clean_gain(self) -> Estimate | None:
        return self.gains.get(CLEAN)

    @property
    def robust_gain(self) -> Estimate | None:
        return self.gains.get(ROBUST)

    @property
    def is_control(self) -> bool:
        return not self.arm.config.regularizer.active

    def row(self) -> dict[str, Any]:
        """A row of a table, accuracies in [0, 1]."""
        config = self.arm.config
        penalty = config.regularizer
        facts: dict[str, Any] = {
            "method": wording.method(config),
            "ipc": config.ipc,
            "regularizer": penalty.title,
            **wording.numbers(penalty),
            "settings": self.arm.settings,
            "seeds": self.clean.num_distillations,
            "students": self.clean.num_students,
            "samples": self.clean.num_samples,
        }
        for measure, found in self.found.items():
            facts |= columns(measure.name, found)
            gained = columns(f"{measure.name}_gain", self.gains.get(measure))
            facts |= {name: value for name, value in gained.items() if "std" not in name}
            low, high = self.together.get(measure, (None, None))
            name = f"{measure.name}_gain_together"
            facts |= {f"{name}_low": low, f"{name}_high": high}
        return facts


def shared_place(comparisons: Iterable[Comparison]) -> str:
    """The method and IPC of all arms; "" where they differ."""
    places = {comparison.arm.place for comparison in comparisons}
    return places.pop() if len(places) == 1 else ""


def short_titles(comparisons: Sequence[Comparison]) -> list[str]:
    """The arms' titles without the place that they share."""
    place = shared_place(comparisons)
    return [comparison.arm.title.removeprefix(f"{place}, ") for comparison in comparisons]


def elsewhere(comparisons: Sequence[Comparison]) -> str:
    """What holds where an arm's title does not say otherwise, as a sentence; "" for nothing."""
    return wording.elsewhere([comparison.arm.config for comparison in comparisons])


def columns(name: str, found: Estimate | None) -> dict[str, float | None]:
    """An estimate's mean under the name, and its deviations and ends beside it; None for none."""
    ends = ("distillation_std", "student_std", "low", "high")
    named = {name: found.mean if found else None}
    return named | {f"{name}_{end}": getattr(found, end) if found else None for end in ends}


def arms(records: Iterable[Record]) -> list[Arm]:
    """Complete trials that differ in their seeds alone, together; in the order of the first."""
    complete = [(TrialConfig.from_dict(r.config), r) for r in records if r.status == "complete"]
    repeated = repeating([config for config, _ in complete])
    found: dict[str, tuple[TrialConfig, dict[SeedPair, Record]]] = {}
    for config, record in complete:
        seeds = (config.seed, config.student.seed)
        seedless = config.override(dict.fromkeys(repeated, 0))
        found.setdefault(seedless.fingerprint(), (seedless, {}))[1].setdefault(seeds, record)
    return named([Arm(config=config, records=own) for config, own in found.values()])


def repeating(configs: Sequence[TrialConfig]) -> tuple[str, ...]:
    """Which seeds only repeat these trials: all of them, but where trials differ in the attacks'
    seed alone, that is what is compared."""
    attacked_alike = {config.override({ATTACK_SEED: 0}).fingerprint() for config in configs}
    is_compared = len(attacked_alike) < len({config.fingerprint() for config in configs})
    return tuple(path for path in SEEDS if not (is_compared and path == ATTACK_SEED))


def named(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with their `settings`."""
    texts = wording.told_apart([arm.config for arm in arms])
    return [replace(arm, settings=text) for arm, text in zip(arms, texts, strict=True)]


def compare(records: Iterable[Record]) -> list[Comparison]:
    """Every arm of the records on test images, and its gain over its control on the seeds that both
    have."""
    every = arms(records)
    values = {arm.config.fingerprint(): arm.values("test") for arm in every}
    pairs = {arm.config.fingerprint(): pairs_of(arm, values) for arm in every}
    count = sum(measure.attack is None for own in pairs.values() for measure in own)
    sure, comparisons = family_confidence(count), []
    for arm in every:
        own = pairs[arm.config.fingerprint()]
        measured = values[arm.config.fingerprint()]
        wide = {m: difference(*pair, confidence=sure) for m, pair in own.items()}
        comparisons.append(
            Comparison(
                arm=arm,
                found={measure: estimate(runs) for measure, runs in measured.items()},
                gains={measure: difference(*pair) for measure, pair in own.items()},
                together={m: (found.low, found.high) for m, found in wide.items()},
            )
        )
    return comparisons


def pairs_of(
    arm: Arm, values: Mapping[str, Mapping[Measure, Values]]
) -> dict[Measure, tuple[Values, Values]]:
    """By measure, an arm's and its control's values on the runs that both have; nothing without
    them. values: of every arm, by its fingerprint."""
    if not arm.config.regularizer.active:
        return {}
    own, other = (
        values.get(config.fingerprint(), {}) for config in (arm.config, arm.config.unregularized())
    )
    found = {m: shared_runs(own[m], other[m]) for m in own if m in other}
    return {measure: pair for measure, pair in found.items() if pair[0]}


def family_confidence(count: int) -> float:
    """Of each of so many intervals, for all of them to hold at once in 95 of 100 tables
    (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(count, 1)


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
    own, other = shared_runs(ours, theirs)
    return difference(own, other) if own else None


def shared_runs(ours: Values, theirs: Values) -> tuple[Values, Values]:
    """Those that both have."""
    shared = sorted(ours.keys() & theirs.keys())
    return {run: ours[run] for run in shared}, {run: theirs[run] for run in shared}


def versus(ours: Comparison, theirs: Comparison, measure: Measure = ROBUST) -> Estimate | None:
    """The paired difference of two arms on the runs that both have, of test images; None if there
    is none. Raises KeyError for what one of them was not measured under."""
    return gain(ours.arm.values("test")[measure], theirs.arm.values("test")[measure])


Against = tuple[Comparison, Comparison]
"""An arm and its control."""


def surplus(ours: Against, theirs: Against, measure: Measure = ROBUST) -> Estimate | None:
    """What one arm has over its control, less what another has over its own, paired on the runs
    that all four have; None if there is none. Raises KeyError as `versus`."""
    gained = []
    for arm, control in (ours, theirs):
        values = arm.arm.values("test")[measure], control.arm.values("test")[measure]
        own, other = shared_runs(*values)
        gained.append({run: own[run] - other[run] for run in own})
    return gain(*gained)
