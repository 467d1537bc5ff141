"""The stages that judge a network: its verdicts under attack, whether they can be believed, and the
loss around real images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from guard.config.common import ComputeConfig
from guard.config.data import DataConfig
from guard.config.evaluation import AttackAt, EvaluationConfig, Norm, Split, attacks_at, passes_of
from guard.stage import Sizes, Stage
from guard.stages import Distilled, Trained


@dataclass(frozen=True, kw_only=True)
class Evaluate(Stage):
    """One attack of an evaluation, after the verdicts of those before it."""

    name, version, work = "evaluate", 5, "guard.robustness.evaluate:evaluate_stage"
    model: Trained
    before: Evaluate | None
    data: DataConfig
    evaluation: EvaluationConfig
    """Of the last one of a chain, what it reports (`reporting`); of the others, what their verdicts
    depend on (`attacking`)."""
    split: Split
    eps: float | None
    """Radius in pixels; None for an attack at any distance."""
    attack: str
    is_last: bool
    compute: ComputeConfig

    @property
    def attack_at(self) -> AttackAt:
        """(radius, attack) as `Verdicts` has it."""
        return (math.inf if self.eps is None else self.eps), self.attack

    def passes(self, sizes: Sizes) -> float:
        count = min(sizes.splits[self.split], self.evaluation.max_samples or math.inf)
        clean = 1 if self.before is None else 0
        return count * (clean + passes_of(self.attack))


def chain(
    model: Trained, data: DataConfig, evaluation: EvaluationConfig, split: Split
) -> list[Evaluate]:
    """An evaluation as stages, each after the one before it. Only the last says what is reported,
    so evaluations with the same beginning share it."""
    every = attacks_at(evaluation)
    found: list[Evaluate] = []
    for eps, name in every:
        is_last = len(found) == len(every) - 1
        found.append(
            Evaluate(
                model=model,
                before=found[-1] if found else None,
                data=data,
                evaluation=evaluation.reporting() if is_last else evaluation.attacking(),
                split=split,
                eps=None if math.isinf(eps) else eps,
                attack=name,
                is_last=is_last,
                compute=model.compute,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Diagnose(Stage):
    """Whether a network's figures can be believed."""

    name, version, work = "diagnose", 5, "guard.robustness.reliability:diagnose_stage"
    model: Trained
    surrogate: Trained | None
    """Whose adversarial examples are tried too."""
    data: DataConfig
    evaluation: EvaluationConfig
    split: Split
    compute: ComputeConfig

    @classmethod
    def of(
        cls,
        model: Trained,
        surrogate: Trained | None,
        data: DataConfig,
        evaluation: EvaluationConfig,
    ) -> Diagnose:
        """On the first split of an evaluation."""
        return cls(
            model=model,
            surrogate=surrogate,
            data=data,
            evaluation=replace(evaluation.attacking(), eps=evaluation.eps),
            split=evaluation.splits[0],
            compute=model.compute,
        )


@dataclass(frozen=True, kw_only=True)
class Landscape(Stage):
    """The loss around real test images: eigenvalues, cosines, the terms of Proposition 1."""

    name, version, work = "landscape", 2, "guard.robustness.landscape:look_around"
    model: Trained
    distilled: Distilled | None
    """What Proposition 1 is about; None: without it."""
    data: DataConfig
    eps: float
    norm: Norm
    compute: ComputeConfig


JUDGING: Mapping[str, type[Stage]] = {kind.name: kind for kind in (Evaluate, Diagnose, Landscape)}
