"""Which network labels a distilled set, and the set and the student that it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guard.config.common import ModelConfig
from guard.config.labels import OWN
from guard.config.regularizers import RegularizerConfig
from guard.stages import (
    Committee,
    Distilled,
    Early,
    Part,
    Relabel,
    Squeeze,
    Student,
    Trained,
    Whitening,
    dsa_space,
)
from guard.trial import TrialConfig

SEEDS_APART = 1_000_000
"""Between the seeds of a committee's members that differ in nothing else."""


def labeller(config: TrialConfig, teachers: Sequence[Trained]) -> Trained | None:
    """The network whose logits label the student's images; None: nobody's.

    teachers: of the method, the first of which labels where the method has it so and `labels` names
    no other.
    """
    if not config.is_taught:
        return None
    if config.labels.is_plain and config.own.teacher_labels:
        return teachers[0]
    members = tuple(_members(config))
    if len(members) == 1:
        return members[0]
    return Committee(teachers=members, compute=config.compute)


def _members(config: TrialConfig) -> list[Trained]:
    """Of the committee: regularizer by regularizer, network by network, seed by seed."""
    own, shared = config.labels, config.shared
    found: list[Trained] = []
    for penalty in own.teachers:
        for network in own.networks:
            for number in range(own.seeds):
                seed = shared.seed + SEEDS_APART * number
                asked = replace(shared, regularizer=_penalty(config, penalty), seed=seed)
                found.append(_stopped(config, Squeeze.of(asked, _network(config, network))))
    return found


def _penalty(config: TrialConfig, name: str) -> RegularizerConfig:
    return config.regularizer if name == OWN else RegularizerConfig.named(name)


def _network(config: TrialConfig, name: str) -> ModelConfig:
    return config.model if name == OWN else replace(config.model, name=name)


def _stopped(config: TrialConfig, teacher: Squeeze) -> Trained:
    """As it is after the epoch that `labels` names."""
    epoch = config.labels.epoch
    return teacher if epoch is None else Early(teacher=teacher, epoch=epoch, compute=config.compute)


def distilled_set(config: TrialConfig, teacher: Trained | None, parts: Sequence[Part]) -> Distilled:
    """The set, with the labels of a teacher that lie in it where the student learns those."""
    student, portable = config.student, config.has_portable_labels
    pooled = student.labels == "budget"
    whitening = Whitening.of(config.shared, config.student_model) if pooled else None
    return Distilled(
        teacher=teacher,
        parts=tuple(parts),
        method=config.method,
        ipc=config.ipc,
        portable=student.portable_only() if portable else None,
        bn=config.labels.bn if portable else "eval",
        whitening=dsa_space(student.train, whitening),
        compute=config.compute,
    )


def student_of(config: TrialConfig, teacher: Trained | None, distilled: Distilled) -> Student:
    """The network that is trained on the set: on its own labels, or on a teacher's of every
    epoch."""
    whitening = Whitening.of(config.shared, config.student_model)
    labels = None
    if teacher is not None and not config.has_portable_labels:
        labels = Relabel.of(teacher, distilled, config.student, whitening, config.labels.bn)
    return Student(
        distilled=distilled,
        whitening=whitening,
        labels=labels,
        model=config.student_model,
        student=config.student,
        eps=config.shared.radius(config.student.regularizer),
        compute=config.compute,
    )


def trained_on_all(config: TrialConfig) -> Squeeze:
    """The network that a method without a set trains, with the student's regularizer where it has
    one."""
    own, shared = config.student.regularizer, config.shared
    return Squeeze.of(
        replace(shared, regularizer=own) if own.active else shared, config.student_model
    )
