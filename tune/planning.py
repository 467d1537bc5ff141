"""What a search is asked to do, and its Optuna study with what is to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from tune.options import SamplerName
from tune.results.folder import StudyFolder
from tune.results.standing import Standing
from tune.settling import enqueue_new, settle
from tune.space import Params, SearchSpace
from tune.storage import opened, understood
from tune.warmstart import take_over

STARTUP_TRIALS = 5
"""That `auto` draws at random first, where Optuna's default is ten."""


def grouped(seed: int, startup_trials: int = 10) -> TPESampler:
    """TPE of the joint distribution of the fields that trials have together."""
    return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=startup_trials)


SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    "auto": lambda seed: grouped(seed, STARTUP_TRIALS),
    "tpe": lambda seed: TPESampler(seed=seed),
    "tpe-group": lambda seed: grouped(seed),
    "gp": lambda seed: GPSampler(seed=seed, deterministic_objective=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: RandomSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # its trials are enqueued, none is sampled
}
GRID_POINTS = 3


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
    reduction: float = 1.0
    """Of so many trials at a rung, one goes on; 1: every trial goes to its end."""
    known: tuple[StudyFolder, ...] = ()
    """Other studies, whose trials the sampler is told of."""
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
    take_over(study, plan.known, plan.space, standing.max_clean_drop)
    enqueue_new(study, *planned(plan.space, plan.sampler))


def planned(space: SearchSpace, sampler: SamplerName) -> tuple[list[Params], list[Params]]:
    """What is queued before any trial is sampled: controls, and the grid or the base's values."""
    if sampler == "grid":
        return space.controls(every=True), space.grid(GRID_POINTS)
    return space.controls(), space.defaults()


def num_planned(space: SearchSpace, sampler: SamplerName) -> int:
    return sum(map(len, planned(space, sampler)))
