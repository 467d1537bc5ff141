"""A study: Optuna proposes, Ray Tune runs, the output folder keeps the truth.

Running the same study again goes on where it stopped: finished trials stay, interrupted ones are
proposed again with the same parameters, and more trials are added when more are asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import ray
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray import tune as ray_tune
from ray.tune.search.optuna import OptunaSearch

from guard.errors import StudyError
from tune.desk import wait_for_desk
from tune.options import SamplerName
from tune.resources import StageResources
from tune.results.folder import StudyFolder
from tune.space import CONTROL, Params, SearchSpace
from tune.trainable import COORDINATOR_CPUS, IS_CONTROL, NUMBER, StudyContext, coordinate

SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=16),
    "random": lambda seed: RandomSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # its trials are enqueued, none is sampled
}
GRID_POINTS = 3
RETRY_OF = "retry_of"
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


@contextlib.contextmanager
def locked(folder: StudyFolder) -> Iterator[None]:
    """Hold the study's folder. Raises StudyError if another process does."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        file = (folder.path / ".lock").open("wb")
    except OSError as error:
        raise StudyError(f"--output: cannot write in {folder.path} ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"--name: the study {folder.path} is running already") from None
        yield


def open_study(plan: Plan) -> optuna.Study:
    """The study in the folder's storage, created or loaded, with its queue in order."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        storage=plan.folder.storage_uri,
        study_name=plan.folder.name,
        directions=["maximize", "maximize"],
        load_if_exists=True,
    )
    # A sampler that started from the same state again would propose the same trials again.
    seed = plan.seed + 1000 * len(study.get_trials(deepcopy=False))
    study.sampler = SAMPLERS[plan.sampler](seed)
    study.set_metric_names(["clean accuracy (validation)", "robust accuracy (validation)"])
    _settle(study, plan.folder)
    controls, others = planned(plan.space, plan.sampler)
    for params in controls:
        _enqueue_once(study, params, control=True)
    for params in others:
        _enqueue_once(study, params, control=False)
    return study


def _settle(study: optuna.Study, folder: StudyFolder) -> None:
    """Close trials that a stopped driver left running, and queue again what did not finish."""
    retried = {trial.user_attrs.get(RETRY_OF) for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials():
        record = folder.read(trial.number)
        if trial.state == TrialState.RUNNING:
            if record is not None and record.finished:
                study.tell(trial.number, record.objectives)
                continue
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state != TrialState.FAIL:
            continue
        if trial.number not in retried:
            attributes = {**trial.user_attrs, RETRY_OF: trial.number}
            study.enqueue_trial(trial.params, user_attrs=attributes)


def _enqueue_once(study: optuna.Study, params: Params, *, control: bool) -> None:
    for trial in study.get_trials(deepcopy=False):
        known = trial.system_attrs.get("fixed_params", trial.params)
        if known == params and bool(trial.user_attrs.get(CONTROL)) == control:
            return
    study.enqueue_trial(params, user_attrs={CONTROL: True} if control else {})


def planned(space: SearchSpace, sampler: SamplerName) -> tuple[list[Params], list[Params]]:
    """What is queued before any trial is sampled: controls, and the grid or the base's values."""
    others = space.grid(GRID_POINTS) if sampler == "grid" else space.defaults()
    return space.controls(), others


def num_planned(space: SearchSpace, sampler: SamplerName) -> int:
    return sum(map(len, planned(space, sampler)))


def finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


@dataclass(frozen=True)
class Sample:
    """Define-by-run function of OptunaSearch; a class, since Tune pickles it."""

    space: SearchSpace

    def __call__(self, trial: Any) -> Params:
        control = bool(trial.user_attrs.get(CONTROL))
        return {**self.space.suggest(trial), NUMBER: trial.number, IS_CONTROL: control}


def run_study(
    plan: Plan,
    study: optuna.Study,
    context: StudyContext,
    desk: Any,
    slots: int,
    callbacks: Sequence[ray_tune.Callback],
) -> None:
    """Run `slots` trials at a time until the study has `num_trials` finished ones or is stopped.

    Ray must be up, and `desk` be the actor that `context.desk` names. A trial that fails is
    recorded and the study goes on without it.
    """
    remaining = plan.num_trials - finished(study)
    if remaining <= 0:
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
            num_samples=remaining,
            max_concurrent_trials=slots,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name=folder.name, storage_path=scratch, verbose=0, callbacks=list(callbacks)
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def study_context(plan: Plan, desk_name: str) -> StudyContext:
    folder = plan.folder
    return StudyContext(
        base=plan.space.base.to_dict(), output=str(folder.output), name=folder.name, desk=desk_name
    )


def num_slots(resources: StageResources) -> int:
    """Stages of the default size that the running cluster holds at once."""
    total = ray.cluster_resources()
    wanted = resources.default
    slots = total.get("CPU", 0) // max(wanted.cpus, COORDINATOR_CPUS)
    if wanted.gpus:
        slots = min(slots, total.get("GPU", 0) // wanted.gpus)
    return max(int(slots), 1)
