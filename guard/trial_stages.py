"""A trial's stages, and the order in which they run: how far a leg goes, and what it begins with.

Nothing here imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from guard.robustness.stages import JUDGING, Diagnose, Evaluate, Landscape, chain
from guard.stage import Stage, waves
from guard.stages import (
    Committee,
    Distilled,
    Early,
    EarlySqueeze,
    Loaded,
    Part,
    Relabel,
    Squeeze,
    Student,
    Trained,
    Whitening,
)
from guard.teachers import distilled_set, labeller, student_of, trained_on_all
from guard.trial import TrialConfig, methods

RUNG = "rung-"
SHARED = (
    Whitening,
    EarlySqueeze,
    Squeeze,
    Early,
    Committee,
    Distilled,
    Loaded,
    Relabel,
    Student,
)
STAGES: Mapping[str, type[Stage]] = {
    **{kind.name: kind for kind in SHARED},
    **{kind.name: kind for method in methods().values() for kind in method.stages},
    **JUDGING,
}
"""Every kind of stage by name."""


@dataclass(frozen=True, kw_only=True)
class TrialStages:
    """The stages of a trial that say something under a heading; what else they need follows."""

    teachers: Sequence[Trained]
    teacher_check: Sequence[Evaluate]
    """The first teacher, or else the one that labels, which is also the one where `labels` names
    it, under the cheap suite, on validation."""
    rungs: Sequence[Sequence[Evaluate]]
    """The same of that teacher early in its training, where it is a squeeze, and at its end: where
    a search may end the trial."""
    parts: Sequence[Part]
    distilled: Distilled | None
    """None: the student is trained on the real images."""
    student: Trained
    diagnosis: Sequence[Diagnose]
    verdicts: Mapping[str, Sequence[Evaluate]]
    """Of the student, by split: attack after attack."""

    @classmethod
    def of(cls, config: TrialConfig) -> TrialStages:
        own, shared = config.own, config.shared
        teachers = tuple(own.teachers(shared))
        parts = tuple(own.parts(shared, teachers))
        distilled, student = None, None
        teacher = labeller(config, teachers) if parts else None
        if parts:
            distilled = distilled_set(config, teacher, parts)
            student = student_of(config, teacher, distilled)
        judged = student or trained_on_all(config)
        surrogate = teachers[0] if teachers else None
        evaluation, data = config.evaluation, config.data
        diagnosis = (
            [Diagnose.of(judged, surrogate, data, evaluation)] if evaluation.diagnose else []
        )
        plain = config.labels.is_plain
        checked = (surrogate or teacher) if plain else (teacher or surrogate)
        return cls(
            teachers=teachers,
            teacher_check=teacher_check(config, checked),
            rungs=rungs(config, checked),
            parts=parts,
            distilled=distilled,
            student=judged,
            diagnosis=diagnosis,
            verdicts={split: chain(judged, data, evaluation, split) for split in evaluation.splits},
        )

    @property
    def headings(self) -> list[tuple[str, Sequence[Stage]]]:
        """What is reported, in this order: a heading, and the stages whose metrics stand there."""
        return [
            ("teacher", self.teachers),
            ("teacher", self.teacher_check),
            ("distilled", self.parts),
            ("student", [self.student]),
            ("reliability", self.diagnosis),
            *self.verdicts.items(),
        ]

    @property
    def waves(self) -> list[list[Stage]]:
        """Every stage of a trial that does not diverge, those together that can run together."""
        return waves(*self.teachers, *self.teacher_check, *self.last)

    @property
    def last(self) -> list[Stage]:
        """The student, and what is said of it: all that it depends on has its mark on these."""
        return [self.student, *(links[-1] for links in self.verdicts.values()), *self.diagnosis]


def teacher_check(config: TrialConfig, teacher: Trained | None) -> list[Evaluate]:
    """The teacher under the cheap suite, on validation; none without one."""
    cheap = replace(config.evaluation, more_eps=(), attacks=("search",), cascade=True)
    return chain(teacher, config.data, cheap, "validation") if teacher else []


def rungs(config: TrialConfig, teacher: Trained | None) -> list[list[Evaluate]]:
    """Looks at the teacher that a trial may be judged by before it is done, the earliest first."""
    looks = teacher.looks if isinstance(teacher, Squeeze) else []
    return [teacher_check(config, look) for look in [*looks, teacher]] if teacher else []


def landscapes(config: TrialConfig) -> dict[str, Landscape]:
    """The loss around the student of a trial, and around its teacher where there is one."""
    stages = TrialStages.of(config)
    models = {"student": stages.student}
    if stages.teachers:
        models["teacher"] = stages.teachers[0]
    return {
        heading: Landscape(
            model=model,
            distilled=stages.distilled,
            data=config.data,
            eps=config.evaluation.eps,
            norm=config.evaluation.norm,
            compute=config.compute,
        )
        for heading, model in models.items()
    }


def plan(config: TrialConfig) -> list[Stage]:
    """Every stage of a trial that does not diverge, in the order in which they run."""
    return [stage for wave in TrialStages.of(config).waves for stage in wave]


@dataclass(frozen=True, kw_only=True)
class Leg:
    """How far a trial goes. What an earlier leg of it has computed is in the store."""

    looks: int = 0
    """Rungs that are climbed first, as far as the trial has them."""
    whole: bool = True
    """Whether it goes on to its end."""


WHOLE = Leg()
EVERY_LOOK = Leg(looks=sys.maxsize)
"""Whole, and past each rung."""


def first_stages(legs: Iterable[tuple[TrialConfig, Leg]]) -> Iterator[Stage]:
    """What legs of trials begin with, each stage once, in the order of the trials."""
    seen: set[str] = set()
    for config, leg in legs:
        stages = TrialStages.of(config)
        looks = stages.rungs[: leg.looks]
        for stage in waves(looks[0][-1])[0] if looks else stages.waves[0]:
            if stage.address not in seen:
                seen.add(stage.address)
                yield stage


def rung_name(number: int) -> str:
    """The heading of what a trial says at a rung, which count from 1."""
    return f"{RUNG}{number}"


def rung_of(metric: str) -> int:
    """Where a trial's metric was measured: its rung, or 0 for its end."""
    heading = metric.partition("/")[0]
    return int(heading.removeprefix(RUNG)) if heading.startswith(RUNG) else 0
