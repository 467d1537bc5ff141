"""A study: Optuna proposes, Ray Tune runs, the output folder keeps the truth.

Running the same study again goes on where it stopped: finished trials stay, interrupted ones are
proposed again with the same parameters (`tune.settling`), and more trials are added when more are
asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
import ray
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from ray import tune as ray_tune
from ray.tune.search.optuna import OptunaSearch

from tune.callback import StudyCallback
from tune.desk import wait_for_desk
from tune.options import SamplerName
from tune.resources import StageResources
from tune.results.folder import StudyFolder
from tune.results.standing import Standing
from tune.runs import TRIES
from tune.settling import enqueue_new, is_control, number_of, settle
from tune.space import Params, SearchSpace
from tune.storage import opened, understood
from tune.trainable import COORDINATOR_CPUS, IS_CONTROL, NUMBER, StudyContext, coordinate

SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: RandomSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # its trials are enqueued, none is sampled
}
GRID_POINTS = 3
DESK_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is asked to do."""

    folder: StudyFolder
    space: SearchSpace
    num_trials: int
    """Finished trials that the study shall have in the end, controls included."""
    sampler: SamplerName = "tpe"
    seed: int = 0
    """Of the sampler."""
    storage: str = ""
    """URL of Optuna's; "": in the folder."""


def open_study(plan: Plan, standing: Standing) -> optuna.Study:
    """The study in the folder's storage, created or loaded, with its queue in order. Raises
    StudyError for a storage that cannot be used, and for a record of another study."""
    study = opened(plan.folder, plan.storage)
    with understood(plan.folder):
        prepare(study, plan, standing)
    return study


def prepare(study: optuna.Study, plan: Plan, standing: Standing) -> None:
    """Give a study its sampler, and its queue what is to run."""
    # A sampler that started from the same state again would propose the same trials again.
    seed = (plan.seed + 1000 * len(study.get_trials(deepcopy=False))) % 2**32
    study.sampler = SAMPLERS[plan.sampler](seed)
    study.set_metric_names(["clean accuracy (validation)", "robust accuracy (validation)"])
    settle(study, standing, plan.space)
    enqueue_new(study, *planned(plan.space, plan.sampler))


def planned(space: SearchSpace, sampler: SamplerName) -> tuple[list[Params], list[Params]]:
    """What is queued before any trial is sampled: controls, and the grid or the base's values."""
    others = space.grid(GRID_POINTS) if sampler == "grid" else space.defaults()
    return space.controls(), others


def num_planned(space: SearchSpace, sampler: SamplerName) -> int:
    return sum(map(len, planned(space, sampler)))


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
