"""The Tune trainable: a trial that only coordinates.

It holds next to no resources and imports no torch; its stages do the work (`tune.desk`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray import tune as ray_tune

from guard.pipeline import run_trial
from guard.trial import TrialConfig
from guard.trial_stages import Leg
from tune.asking import RayRunner
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.space import configured

NUMBER, IS_CONTROL, LOOKS, IS_WHOLE = "trial_number", "is_control", "looks", "is_whole"
"""Keys that the search adds to the parameters of a trial."""


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What every trial of a study shares."""

    base: Mapping[str, Any]
    """The config as a dict."""
    output: str
    """As `StudyFolder.at` takes it."""
    name: str
    desk: str

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder.at(self.output, self.name)

    def config(self, params: Mapping[str, Any], control: bool) -> TrialConfig:
        return configured(TrialConfig.from_dict(self.base), dict(params), control=control)


def coordinate(sampled: Mapping[str, Any], context: StudyContext) -> None:
    """Run one leg of a trial, write its record, and report after every heading. Raises what a stage
    raises."""
    number = sampled[NUMBER]
    params, control = split_sample(sampled)
    config = context.config(params, control)

    def report(heading: str, metrics: Mapping[str, float]) -> None:
        text = json.dumps(dict(metrics))  # of each number Tune would keep a history
        ray_tune.report({NUMBER: number, "heading": heading, "metrics": text})

    leg = Leg(looks=sampled[LOOKS], whole=sampled[IS_WHOLE])
    result = run_trial(config, RayRunner(context.desk), report, leg)
    record = Record.of(result, trial=number, config=config, params=params, control=control)
    context.folder.write(record.after(stopped(context.folder, number)))
    clean, robust = record.objectives
    ray_tune.report({NUMBER: number, "heading": "done", "clean": clean, "robust": robust})


def stopped(folder: StudyFolder, number: int) -> Record | None:
    """What an earlier leg of a trial has come to."""
    record = folder.read(number)
    return record if record is not None and record.status == "stopped" else None


def split_sample(sampled: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Parameters of a trial, and whether it is a control, from what the search proposed."""
    added = (NUMBER, IS_CONTROL, LOOKS, IS_WHOLE)
    params = {name: value for name, value in sampled.items() if name not in added}
    return params, bool(sampled[IS_CONTROL])
