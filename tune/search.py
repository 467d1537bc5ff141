"""A study: Optuna proposes, Ray Tune runs, the output folder keeps the truth.

Running the same study again goes on where it stopped: finished trials stay, interrupted ones are
proposed again with the same parameters (`tune.settling`), and more trials are added when more are
asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import optuna
import ray
from ray import tune as ray_tune
from ray.tune.search.optuna import OptunaSearch

from tune.callback import StudyCallback
from tune.desk import wait_for_desk
from tune.planning import Plan
from tune.resources import StageResources
from tune.runs import TRIES
from tune.settling import is_control, number_of
from tune.space import Params, SearchSpace
from tune.storage import understood
from tune.trainable import COORDINATOR_CPUS, IS_CONTROL, NUMBER, StudyContext, coordinate

DESK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Sample:
    """Define-by-run function of OptunaSearch; a class, since Tune pickles it."""

    space: SearchSpace

    def __call__(self, trial: Any) -> Params:
        names = {NUMBER: number_of(trial), IS_CONTROL: is_control(trial)}
        return {**self.space.suggest(trial), **names}


def run_study(
    plan: Plan,
    study: optuna.Study,
    context: StudyContext,
    desk: Any,
    slots: int,
    num_trials: int,
    callback: StudyCallback,
) -> None:
    """Run `num_trials` trials, `slots` at a time, or until the callback ends the search.

    Ray must be up, and `desk` be the actor that `context.desk` names. A trial that fails is tried
    once more; then it is recorded, and the study goes on without it. Raises StudyError where
    nothing can be written any more.
    """
    if num_trials <= 0:
        return
    wait_for_desk(desk, DESK_TIMEOUT_S)
    folder = plan.folder

    search = OptunaSearch(
        Sample(plan.space),
        metric=["clean", "robust"],
        mode=["max", "max"],
        sampler=study.sampler,
        storage=study._storage,
        study_name=study.study_name,
    )
    trainable = ray_tune.with_parameters(coordinate, context=context)
    scratch = tempfile.mkdtemp(prefix=f"tune-{folder.name}-")
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, {"cpu": COORDINATOR_CPUS}),
        tune_config=ray_tune.TuneConfig(
            search_alg=search,
            num_samples=num_trials,
            max_concurrent_trials=slots,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name=folder.name,
            storage_path=scratch,
            verbose=0,
            callbacks=[callback],
            stop=callback.ending,
            failure_config=ray_tune.FailureConfig(max_failures=TRIES - 1),
        ),
    )
    try:
        with understood(folder):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if callback.ending.error is not None:
        raise callback.ending.error


def study_context(plan: Plan, desk_name: str) -> StudyContext:
    folder = plan.folder
    return StudyContext(
        base=plan.space.base.to_dict(), output=folder.place, name=folder.name, desk=desk_name
    )


def num_slots(resources: StageResources) -> int:
    """Stages of the default size that the running cluster holds at once."""
    total = ray.cluster_resources()
    wanted = resources.default
    slots = total.get("CPU", 0) // max(wanted.cpus, COORDINATOR_CPUS)
    if wanted.gpus:
        slots = min(slots, total.get("GPU", 0) // wanted.gpus)
    return max(int(slots), 1)
