"""A study: Optuna proposes (`tune.proposer`), Ray Tune runs, the output folder keeps the truth.

Running the same study again goes on where it stopped: finished trials stay, interrupted ones are
proposed again with the same parameters (`tune.settling`), and more trials are added when more are
asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from ray import tune as ray_tune
from ray.tune.search import Searcher

from tune.asking import wait_for_desk
from tune.callback import StudyCallback
from tune.planning import Plan
from tune.proposer import Proposer
from tune.resources import COORDINATOR_CPUS
from tune.results.folder import StudyFolder
from tune.runs import TRIES
from tune.storage import understood
from tune.trainable import (
    IS_CONTROL,
    IS_WHOLE,
    LOOKS,
    NUMBER,
    StudyContext,
    coordinate,
)

DESK_TIMEOUT_S = 120.0


class ProposerSearch(Searcher):
    """Tune's way to a proposer: a trial of Tune's is a leg of one of the study's."""

    def __init__(self, proposer: Proposer, folder: StudyFolder) -> None:
        super().__init__()
        self._proposer, self._folder = proposer, folder
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        proposal = self._proposer.next()
        if proposal is None:
            return str(Searcher.FINISHED) if self._proposer.is_over else None
        self._numbers[trial_id] = proposal.number
        leg = {LOOKS: proposal.leg.looks, IS_WHOLE: proposal.leg.whole}
        return {**proposal.params, NUMBER: proposal.number, IS_CONTROL: proposal.control, **leg}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        number = self._numbers.pop(trial_id)
        self._proposer.ended(number, self._folder.read(number))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""


def run_study(
    proposer: Proposer,
    context: StudyContext,
    desk: Any,
    slots: int,
    callback: StudyCallback,
) -> None:
    """Run what a search proposes, `slots` legs at a time, until it is over or the callback ends it.

    Ray must be up, and `desk` be the actor that `context.desk` names. A trial that fails is tried
    once more; then it is recorded, and the study goes on without it. Raises StudyError where
    nothing can be written any more.
    """
    if proposer.is_over:
        return
    wait_for_desk(desk, DESK_TIMEOUT_S)
    folder = context.folder
    trainable = ray_tune.with_parameters(coordinate, context=context)
    scratch = tempfile.mkdtemp(prefix=f"tune-{folder.name}-")
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(trainable, {"cpu": COORDINATOR_CPUS}),
        tune_config=ray_tune.TuneConfig(
            search_alg=ProposerSearch(proposer, folder),
            num_samples=-1,  # the search says when it is over
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
            proposer.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if callback.ending.error is not None:
        raise callback.ending.error


def study_context(plan: Plan, desk_name: str) -> StudyContext:
    folder = plan.folder
    return StudyContext(
        base=plan.space.base.to_dict(), output=folder.place, name=folder.name, desk=desk_name
    )
