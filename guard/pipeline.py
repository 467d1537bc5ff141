"""A trial from end to end, on one page: its stages in their order, and what they say.

Nothing here imports torch or does a stage's work: `run_stage` is given, and is the only thing that
differs between a notebook (`local_runner`) and a Ray cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.artifacts import Artifact, ArtifactStore, Stage
from guard.config import TrialConfig
from guard.robustness.beard import peer_metrics
from guard.steps import Steps, diagnosis, student_links, teacher_checks

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


class _Ledger:
    """What a running trial has so far."""

    def __init__(self, run_stage: RunStage, report: Report) -> None:
        self._run_stage, self._report = run_stage, report
        self._start, self._computing = time.perf_counter(), 0.0
        self.metrics: dict[str, float] = {}
        self.records: list[StageRecord] = []
        self.paths: dict[str, Path] = {}

    def run(self, *stages: Stage) -> Sequence[Artifact]:
        """Their artifacts. Raises _Diverged if one of them diverged."""
        artifacts = self._run_stage(*stages)
        self._computing += max(a.seconds if a.built else 0.0 for a in artifacts)
        for stage, artifact in zip(stages, artifacts, strict=True):
            record = StageRecord(stage.name, stage.key, artifact.seconds, artifact.built)
            self.records.append(record)
            if "diverged" in artifact.summary:
                raise _Diverged(f"{stage.name}: {artifact.summary['diverged']}")
        return artifacts

    def keep(self, part: str, values: Mapping[str, float]) -> None:
        """Metrics of a part that is done."""
        named = {f"{part}/{name}": value for name, value in values.items()}
        self.metrics.update(named)
        self._report(part, named)

    def result(self, status: str, reason: str = "") -> TrialResult:
        seconds = time.perf_counter() - self._start
        stages, waiting = tuple(self.records), seconds - self._computing
        return TrialResult(status, reason, self.metrics, seconds, waiting, stages, self.paths)


def run_trial(
    config: TrialConfig, run_stage: RunStage, report: Report = lambda part, metrics: None
) -> TrialResult:
    """Distil a set as `config` says, train a student on it and evaluate the student.

    A stage that diverges ends the trial early, with status "diverged".
    """
    ledger = _Ledger(run_stage, report)
    try:
        steps = Steps.of(config)
        distil(config, steps, ledger)
        train(steps, ledger)
        judge(config, steps, ledger)
    except _Diverged as diverged:
        return ledger.result("diverged", str(diverged))
    return ledger.result("complete")


def distil(config: TrialConfig, steps: Steps, ledger: _Ledger) -> None:
    """Teachers or experts, then what they make: the distilled set."""
    if steps.whitening:
        ledger.run(*steps.whitening)
    if steps.teachers:
        taught = ledger.run(*steps.teachers)
        ledger.paths["teacher"] = taught[0].path
        ledger.keep("teacher", _mean([teacher.summary["metrics"] for teacher in taught]))

    teacher = teacher_checks(config, steps)
    made = ledger.run(*teacher, *steps.parts, *steps.labellers) if steps.parts else []
    for checked in made[: len(teacher)]:
        ledger.keep("teacher", checked.summary["metrics"])
    if steps.distilled is not None:
        parts = made[len(teacher) : len(teacher) + len(steps.parts)]
        ledger.keep("distilled", _mean([part.summary["metrics"] for part in parts]))
        ledger.paths["distilled"] = ledger.run(steps.distilled)[0].path


def train(steps: Steps, ledger: _Ledger) -> None:
    """The student."""
    if steps.relabel is not None:
        ledger.run(steps.relabel)
    (trained,) = ledger.run(steps.student)
    ledger.paths["student"] = trained.path
    ledger.keep("student", trained.summary["metrics"])


def judge(config: TrialConfig, steps: Steps, ledger: _Ledger) -> None:
    """The student under attack, on every split, and whether that can be believed."""
    splits = config.evaluation.splits
    first, *others = student_links(config, steps)
    made = ledger.run(*first, *diagnosis(config, steps))
    for checked in made[len(splits) :]:
        ledger.keep("reliability", checked.summary["metrics"])
    links = [made[: len(splits)], *(ledger.run(*together) for together in others)]
    for split, chain in zip(splits, zip(*links, strict=True), strict=True):
        peers = peer_metrics(config.evaluation, chain)
        ledger.keep(split, {**chain[-1].summary["metrics"], **peers})
        ledger.paths[f"{split} verdicts"] = chain[-1].path


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
