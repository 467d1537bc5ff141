"""Which network labels a distilled set, and the set and the student that it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guard.committees import members, together
from guard.stages import (
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


def labeller(config: TrialConfig, teachers: Sequence[Trained]) -> Trained | None:
    """The network whose logits label the student's images; None: nobody's.

    teachers: of the method, which label together where the method has it so and `labels` names no
    others.
    """
    if not config.is_taught:
        return None
    if config.labels.is_plain and config.own.teacher_labels:
        return together(teachers, config.compute)
    named = [_stopped(config, own) for own in members(config.shared, config.labels)]
    return together(named, config.compute)


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
    labels: list[Relabel] = []
    if teacher is not None and not config.has_portable_labels:
        own = config.labels
        labels = Relabel.of(teacher, distilled, config.student, whitening, own.bn, own.parts)
    return Student(
        distilled=distilled,
        whitening=whitening,
        labels=labels[0] if labels else None,
        further_labels=tuple(labels[1:]),
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
