"""Which stages a trial has, on which inputs. Nothing here imports torch or does their work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guard.artifacts import Stage
from guard.config import EvaluationConfig, StudentConfig, TrainConfig, TrialConfig
from guard.config.evaluation import parts_of
from guard.methods import METHODS, distilled_stage, labeller, squeeze_stage, whitening


@dataclass(frozen=True)
class Steps:
    """The stages of a trial up to its student, in the order in which they run."""

    whitening: Sequence[Stage]
    """What the first layer of the networks is fitted by."""
    teachers: Sequence[Stage]
    parts: Sequence[Stage]
    labellers: Sequence[Stage]
    """The teacher of soft labels where the method has none; trained beside the parts."""
    distilled: Stage | None
    """None: the student trains on the real images."""
    relabel: Stage | None
    student: Stage

    @classmethod
    def of(cls, config: TrialConfig) -> Steps:
        method = METHODS[config.method]
        teachers = method.teachers(config)
        parts = method.parts(config, teachers)
        teacher = labeller(config, teachers) if parts else None
        distilled = distilled_stage(config, parts, teacher) if parts else None
        relabel = relabel_stage(config, teacher, distilled) if teacher and distilled else None
        student = (
            student_stage(config, distilled, relabel)
            if distilled
            else squeeze_stage(config, config.student_model)
        )
        labellers = [teacher] if teacher and teacher not in teachers else []
        read = {
            address
            for stage in (*teachers, *parts, *labellers, student)
            for address in stage.inputs.values()
        }
        fitted = whitening(config, config.model, config.distilled_model, config.student_model)
        fits = [fit for fit in fitted.values() if fit.address in read]
        return cls(fits, teachers, parts, labellers, distilled, relabel, student)


def relabel_stage(config: TrialConfig, teacher: Stage, distilled: Stage) -> Stage:
    """Soft labels for every epoch of the student's augmented batches."""
    run = config.student.train
    batches_only = TrainConfig(
        epochs=run.epochs,
        batch_size=run.batch_size,
        augment=run.augment,
        crop_scale=run.crop_scale,
        dsa_ops=run.dsa_ops,
    )
    student = StudentConfig(
        seed=config.student.seed,
        train=batches_only,
        mix=config.student.mix,
        mix_alpha=config.student.mix_alpha,
    )
    return Stage.of(
        "relabel",
        3,
        {"teacher": teacher, "distilled": distilled},
        student=student,
        compute=config.compute,
    )


def student_stage(config: TrialConfig, distilled: Stage, relabel: Stage | None) -> Stage:
    inputs = {"distilled": distilled, **whitening(config, config.student_model)}
    return Stage.of(
        "student",
        2,
        inputs if relabel is None else {**inputs, "labels": relabel},
        model=config.student_model,
        student=config.student,
        compute=config.compute,
    )


def teacher_checks(config: TrialConfig, steps: Steps) -> list[Stage]:
    """The first teacher under the cheap suite, on validation."""
    own = config.evaluation
    cheap = replace(own, more_eps=(), attacks=("search",), cascade=True, splits=("validation",))
    checked = replace(config, evaluation=cheap)
    return [
        stage
        for teacher in steps.teachers[:1]
        for stage in evaluation_chain(checked, teacher, "validation")
    ]


def student_links(config: TrialConfig, steps: Steps) -> list[tuple[Stage, ...]]:
    """The student's evaluation: the stages of all splits that run at the same time, in order."""
    splits = config.evaluation.splits
    chains = [evaluation_chain(config, steps.student, split) for split in splits]
    return list(zip(*chains, strict=True))


def evaluation_chain(config: TrialConfig, model: Stage, split: str) -> list[Stage]:
    """A stage for each attack, each after the one before it. Only the last says what is reported,
    so evaluations with the same beginning share it."""
    parts = parts_of(config.evaluation)
    chain: list[Stage] = []
    for eps, name in parts:
        is_last = len(chain) == len(parts) - 1
        chain.append(
            Stage.of(
                "evaluate",
                3,
                {"model": model, **({"before": chain[-1]} if chain else {})},
                data=config.data,
                evaluation=(what_it_reports if is_last else how_it_attacks)(config.evaluation),
                split=split,
                eps=None if math.isinf(eps) else eps,
                attack=name,
                is_last=is_last,
                compute=config.compute,
            )
        )
    return chain


def how_it_attacks(config: EvaluationConfig) -> EvaluationConfig:
    """The part of an evaluation that an attack's verdicts depend on."""
    return EvaluationConfig(
        norm=config.norm,
        cascade=config.cascade,
        seed=config.seed,
        batch_size=config.batch_size,
        max_samples=config.max_samples,
    )


def diagnosis(config: TrialConfig, steps: Steps) -> list[Stage]:
    """Whether the student's figures can be believed; the teacher's adversarial examples help."""
    if not config.evaluation.diagnose:
        return []
    surrogates = {"surrogate": steps.teachers[0]} if steps.teachers else {}
    return [
        Stage.of(
            "diagnose",
            2,
            {"model": steps.student, **surrogates},
            data=config.data,
            evaluation=replace(how_it_attacks(config.evaluation), eps=config.evaluation.eps),
            split=config.evaluation.splits[0],
            compute=config.compute,
        )
    ]


def what_it_reports(config: EvaluationConfig) -> EvaluationConfig:
    """Without what is decided outside the stage."""
    return replace(config, diagnose=True, splits=("validation", "test"))
