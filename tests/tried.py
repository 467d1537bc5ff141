"""Every trial of a small grid, as if it had run: a table that searches are replayed on."""

from __future__ import annotations

from dataclasses import asdict, replace

from optuna.distributions import CategoricalDistribution, FloatDistribution

from builders import record
from guard.pipeline import StageRecord
from guard.robustness.measures import CLEAN, ROBUST
from guard.stage import Stage, closure
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages, rung_name
from tune.planning import GRID_POINTS
from tune.proposer import rungs_of
from tune.results.records import Record
from tune.space import SearchSpace, configured

SPACE = SearchSpace(
    TrialConfig(),
    {
        "ipc": CategoricalDistribution((1, 10)),
        "regularizer.weight": FloatDistribution(0.01, 1, log=True),
    },
)
SECONDS = {"squeeze": 10.0, "early-squeeze": 10.0, "student": 4.0}
"""Of a stage; 1 of the others."""


def seconds_of(stage: Stage) -> float:
    return SECONDS.get(stage.name, 1.0)


def every_stage(config: TrialConfig) -> list[Stage]:
    stages = TrialStages.of(config)
    ends = [*(look[-1] for look in stages.rungs), *(stage for w in stages.waves for stage in w)]
    return list({own.address: own for end in ends for own in closure(end)}.values())


def tried(number: int, params: dict[str, object], control: bool) -> Record:
    """The stronger the penalty the more robust, and at the end of the range too unclean; a rung
    shows half of the robustness."""
    config = configured(SPACE.base, params, control=control)
    weight = 0.0 if control else config.regularizer.weight
    clean, robust = 0.9 - (0.2 if weight > 0.5 else 0.01 * weight), 0.2 + 0.5 * weight
    metrics = {
        f"{rung_name(n)}/{measure.metric}": value
        for n in range(1, len(rungs_of(config)) + 1)
        for measure, value in ((CLEAN, clean), (ROBUST, robust / 2))
    }
    stages = tuple(
        asdict(StageRecord(name=s.name, key=s.key, seconds=seconds_of(s), built=True))
        for s in every_stage(config)
    )
    made = record(number, clean, robust, config, params=params, control=control, stages=stages)
    return replace(made, metrics={**made.metrics, **metrics})


RECORDS = [
    *(tried(n, params, True) for n, params in enumerate(SPACE.controls())),
    *(tried(10 + n, params, False) for n, params in enumerate(SPACE.grid(GRID_POINTS))),
]
