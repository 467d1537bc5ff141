"""A trial from end to end, on one page: its stages run, and say what they found.

Nothing here imports torch or does a stage's work: `run_stage` is given, and is the only thing that
differs between a notebook (`local_runner`) and a Ray cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.artifacts import Artifact, ArtifactStore, MissingInput, attempts
from guard.errors import Diverged
from guard.robustness.beard import peer_metrics
from guard.robustness.measures import CLEAN, ROBUST
from guard.stage import Stage, waves
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg, TrialStages, rung_name

RunStage = Callable[..., Sequence[Artifact]]
"""run_stage(*stages) -> their artifacts; at the same time where that is possible."""
Report = Callable[[str, Mapping[str, float]], None]
"""report(heading that is done, the metrics under it)."""


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a trial says of a stage that it used."""

    name: str
    key: str
    seconds: float
    built: bool
    """Whether it was computed for this trial, or was there already."""


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What `run_trial` gives. Accuracies are shares in [0, 1], named "<split>/<metric>"."""

    status: str
    """complete; diverged: ended early, with `reason`; stopped: its leg was not the last one."""
    reason: str
    metrics: Mapping[str, float]
    seconds: float
    """Wall-clock time, waiting included."""
    waiting_seconds: float
    """Of `seconds`, the time in which no stage was being computed for this trial: queueing for
    resources or for another trial's stage, and orchestration."""
    stages: tuple[StageRecord, ...]
    paths: Mapping[str, Path]
    """Where the teacher, the distilled set and the student are."""


class _Ledger:
    """What a running trial has so far."""

    def __init__(self, run_stage: RunStage, report: Report) -> None:
        self._run_stage, self._report = run_stage, report
        self._start, self._computing = time.perf_counter(), 0.0
        self.metrics: dict[str, float] = {}
        self.records: list[StageRecord] = []
        self.made: dict[str, Artifact] = {}
        """By address."""

    def run(self, wanted: Sequence[Stage]) -> None:
        """Have those of the stages computed that are not made. Raises Diverged if one of them
        did."""
        wave = [stage for stage in wanted if stage.address not in self.made]
        if not wave:
            return
        artifacts = self._run_stage(*wave)
        self._computing += max(a.seconds if a.built else 0.0 for a in artifacts)
        for stage, artifact in zip(wave, artifacts, strict=True):
            record = StageRecord(
                name=stage.name, key=stage.key, seconds=artifact.seconds, built=artifact.built
            )
            self.records.append(record)
            if "diverged" in artifact.summary:
                raise Diverged(f"{stage.name}: {artifact.summary['diverged']}")
            self.made[stage.address] = artifact

    def has(self, stages: Sequence[Stage]) -> bool:
        return all(stage.address in self.made for stage in stages)

    def of(self, stages: Sequence[Stage]) -> list[Artifact]:
        return [self.made[stage.address] for stage in stages]

    def keep(self, heading: str, values: Mapping[str, float]) -> None:
        """Metrics of a heading that is done."""
        named = {f"{heading}/{name}": value for name, value in values.items()}
        self.metrics.update(named)
        self._report(heading, named)

    def result(self, status: str, reason: str, paths: Mapping[str, Path]) -> TrialResult:
        seconds = time.perf_counter() - self._start
        return TrialResult(
            status=status,
            reason=reason,
            metrics=self.metrics,
            seconds=seconds,
            waiting_seconds=max(seconds - self._computing, 0.0),
            stages=tuple(self.records),
            paths=paths,
        )


def run_trial(
    config: TrialConfig,
    run_stage: RunStage,
    report: Report = lambda heading, metrics: None,
    leg: Leg = WHOLE,
) -> TrialResult:
    """Distil a set as `config` says, train a student on it and evaluate the student.

    A stage that diverges ends the trial early, with status "diverged".
    """
    ledger, stages = _Ledger(run_stage, report), TrialStages.of(config)
    status, reason = "complete", ""
    if not leg.whole:
        status, reason = "stopped", f"at rung {leg.looks} of {len(stages.rungs)}"
    try:
        for number, look in enumerate(stages.rungs[: leg.looks], start=1):
            for wave in waves(look[-1]):
                ledger.run(wave)
            found = ledger.of(look[-1:])[0].summary["metrics"]
            ledger.keep(rung_name(number), {m.metric: found[m.metric] for m in (CLEAN, ROBUST)})
        waiting = [(heading, own) for heading, own in stages.headings if own]
        for wave in stages.waves if leg.whole else ():
            ledger.run(wave)
            for heading, own in [pair for pair in waiting if ledger.has(pair[1])]:
                waiting.remove((heading, own))
                ledger.keep(heading, metrics_of(config, heading, ledger.of(own)))
    except Diverged as diverged:
        status, reason = "diverged", str(diverged)
    return ledger.result(status, reason, places(stages, ledger.made))


def metrics_of(
    config: TrialConfig, heading: str, artifacts: Sequence[Artifact]
) -> Mapping[str, float]:
    """Means over the stages of a heading, of what each of them has; of a split's attacks, what the
    last one says of all."""
    if heading in config.evaluation.splits:
        return {**artifacts[-1].summary["metrics"], **peer_metrics(config.evaluation, artifacts)}
    rows = [artifact.summary["metrics"] for artifact in artifacts]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def places(stages: TrialStages, made: Mapping[str, Artifact]) -> dict[str, Path]:
    """Where the first teacher, the set, the student and its verdicts are, as far as they are
    made."""
    named: dict[str, Stage | None] = {
        "teacher": next(iter(stages.teachers), None),
        "distilled": stages.distilled,
        "student": stages.student,
        **{f"{split} verdicts": links[-1] for split, links in stages.verdicts.items()},
    }
    return {
        name: made[stage.address].path
        for name, stage in named.items()
        if stage is not None and stage.address in made
    }


def local_runner(store: ArtifactStore) -> RunStage:
    """Run stages in this process, one after another, keeping their results in `store`; inputs that
    have been lost or damaged since are computed again."""

    def whole(stage: Stage) -> Artifact:
        for _ in range(attempts(stage)):
            try:
                return store.get_or_build(stage)
            except MissingInput as missing:
                whole(missing.stage)
        raise OSError(f"{store.path(stage)}: its inputs are damaged as soon as they are written")

    def run_stage(*stages: Stage) -> list[Artifact]:
        return [whole(stage) for stage in stages]

    return run_stage
