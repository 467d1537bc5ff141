"""A trial from end to end, on one page: which stages it has, in which order, on which inputs.

Nothing here imports torch or does a stage's work: `run_stage` is given, and is the only thing that
differs between a notebook (`local_runner`) and a Ray cluster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guard.artifacts import Artifact, ArtifactStore, Stage
from guard.config import EvaluationConfig, StudentConfig, TrainConfig, TrialConfig
from guard.config.evaluation import parts_of
from guard.methods import METHODS, distilled_stage, labeller, squeeze_stage, whitening
from guard.peers import peer_metrics

RunStage = Callable[..., Sequence[Artifact]]
"""run_stage(*stages) -> their artifacts; at the same time where that is possible."""
Report = Callable[[str, Mapping[str, float]], None]
"""report(name of the part that is done, the metrics it gave)."""


@dataclass(frozen=True)
class StageRecord:
    """What a trial says of a stage that it used."""

    name: str
    key: str
    seconds: float
    built: bool
    """Whether it was computed for this trial, or was there already."""


@dataclass(frozen=True)
class TrialResult:
    """What `run_trial` gives. Accuracies are shares in [0, 1], named "<split>/<metric>"."""

    status: str
    """complete, or diverged: ended early, with `reason`."""
    reason: str
    metrics: Mapping[str, float]
    seconds: float
    """Wall-clock time, waiting included."""
    waiting_seconds: float
    """Of `seconds`, the part in which no stage was being computed for this trial: queueing for
    resources or for another trial's stage, and orchestration."""
    stages: tuple[StageRecord, ...]
    paths: Mapping[str, Path]
    """Where the teacher, the distilled set and the student are."""


class _Diverged(Exception):
    pass


def run_trial(
    config: TrialConfig, run_stage: RunStage, report: Report = lambda part, metrics: None
) -> TrialResult:
    """Distil a set as `config` says, train a student on it and evaluate the student.

    A stage that diverges ends the trial early, with status "diverged".
    """
    start = time.perf_counter()
    metrics: dict[str, float] = {}
    records: list[StageRecord] = []
    paths: dict[str, Path] = {}

    computing = 0.0

    def run(*stages: Stage) -> Sequence[Artifact]:
        nonlocal computing
        artifacts = run_stage(*stages)
        computing += max(artifact.seconds if artifact.built else 0.0 for artifact in artifacts)
        for stage, artifact in zip(stages, artifacts, strict=True):
            records.append(StageRecord(stage.name, stage.key, artifact.seconds, artifact.built))
            if "diverged" in artifact.summary:
                raise _Diverged(f"{stage.name}: {artifact.summary['diverged']}")
        return artifacts

    def keep(part: str, values: Mapping[str, float]) -> None:
        named = {f"{part}/{name}": value for name, value in values.items()}
        metrics.update(named)
        report(part, named)

    def result(status: str, reason: str = "") -> TrialResult:
        seconds = time.perf_counter() - start
        waiting = seconds - computing
        return TrialResult(status, reason, metrics, seconds, waiting, tuple(records), paths)

    try:
        steps = Steps.of(config)
        if steps.whitening:
            run(*steps.whitening)
        if steps.teachers:
            taught = run(*steps.teachers)
            paths["teacher"] = taught[0].path
            keep("teacher", _mean([teacher.summary["metrics"] for teacher in taught]))

        teacher = teacher_checks(config, steps)
        made = run(*teacher, *steps.parts, *steps.labellers) if steps.parts else []
        for checked in made[: len(teacher)]:
            keep("teacher", checked.summary["metrics"])
        if steps.distilled is not None:
            parts = made[len(teacher) : len(teacher) + len(steps.parts)]
            keep("distilled", _mean([part.summary["metrics"] for part in parts]))
            paths["distilled"] = run(steps.distilled)[0].path

        if steps.relabel is not None:
            run(steps.relabel)
        (trained,) = run(steps.student)
        paths["student"] = trained.path
        keep("student", trained.summary["metrics"])

        splits = config.evaluation.splits
        first, *others = student_links(config, steps)
        checks = diagnosis(config, steps)
        made = run(*first, *checks)
        for checked in made[len(splits) :]:
            keep("reliability", checked.summary["metrics"])
        links = [made[: len(splits)], *(run(*together) for together in others)]
        for split, chain in zip(splits, zip(*links, strict=True), strict=True):
            keep(split, {**chain[-1].summary["metrics"], **peer_metrics(config.evaluation, chain)})
            paths[f"{split} verdicts"] = chain[-1].path
    except _Diverged as diverged:
        return result("diverged", str(diverged))
    return result("complete")


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


def plan(config: TrialConfig) -> list[Stage]:
    """Every stage of a trial that does not diverge."""
    steps = Steps.of(config)
    checked = teacher_checks(config, steps)
    first, *others = student_links(config, steps)
    checks = [*first, *diagnosis(config, steps), *(stage for links in others for stage in links)]
    optional = [stage for stage in (steps.distilled, steps.relabel) if stage is not None]
    before = [*steps.whitening, *steps.teachers, *checked, *steps.parts, *steps.labellers]
    return [*before, *optional, steps.student, *checks]


def local_runner(store: ArtifactStore) -> RunStage:
    """Run stages in this process, one after another, keeping their results in `store`."""
    from guard.stages import build

    def run_stage(*stages: Stage) -> list[Artifact]:
        return [store.get_or_build(stage, build) for stage in stages]

    return run_stage


def _mean(rows: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
