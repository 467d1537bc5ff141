"""A grid search whose driver may be killed at any step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from builders import record
from guard.trial import TrialConfig
from tune import space as spaces
from tune.planning import Plan, prepare
from tune.proposer import Proposal, Proposer
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.standing import Standing
from tune.settling import GAP, chains, fixed, is_control, lost, number_of
from tune.space import SearchSpace

IPCS, WEIGHTS = (1, 10), (0.01, 0.505, 1.0)
SPACE = SearchSpace(
    TrialConfig(),
    {
        "ipc": CategoricalDistribution(IPCS),
        "regularizer.weight": FloatDistribution(WEIGHTS[0], WEIGHTS[-1]),
    },
)
POINTS = [(ipc, None) for ipc in IPCS] + [(ipc, weight) for ipc in IPCS for weight in WEIGHTS]
"""IPC and weight of each trial of the grid, by number; controls have no weight."""
WAITING, RUNNING, COMPLETE, FAIL = (
    TrialState.WAITING,
    TrialState.RUNNING,
    TrialState.COMPLETE,
    TrialState.FAIL,
)
PRUNED = TrialState.PRUNED


class Killed(BaseException):
    """A kill, as seen from inside."""


@dataclass
class World:
    """A grid search whose driver may be killed. What lasts: Optuna's storage and the folder."""

    folder: StudyFolder
    storage: optuna.storages.BaseStorage = field(default_factory=optuna.storages.InMemoryStorage)
    reduction: float = 1.0
    steps: int = 0
    kill_at: int = -1
    """The step before which the driver is killed."""

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    def started(self) -> tuple[optuna.Study, Standing]:
        plan = Plan(folder=self.folder, space=SPACE, num_trials=len(POINTS), sampler="grid")
        study = optuna.create_study(
            storage=Watched(self),  # type: ignore[arg-type]
            study_name="s",
            directions=["maximize", "maximize"],
            load_if_exists=True,
        )
        standing = Standing(self.folder, 0.03)
        prepare(study, plan, standing)
        return study, standing

    def asked(self, study: optuna.Study) -> tuple[optuna.Trial, Record]:
        """The next trial and the record that it will have."""
        trial = study.ask()
        params = SPACE.suggest(trial)
        return trial, made(number_of(trial), params, control=is_control(trial))

    def keep(self, own: Record, standing: Standing) -> None:
        self.step()
        self.folder.write(own)
        standing.add([own])

    def run(self) -> None:
        """The command, from its start to its end."""
        study, standing = self.started()
        for run in lost(study, standing, SPACE):
            self.keep(made(run.trial, run.params, control=run.control), standing)
        budget = len(POINTS) - standing.num_done
        proposer = Proposer(study, SPACE, standing, budget, self.reduction)
        while (proposal := proposer.next()) is not None:
            own = climbed(proposal)
            self.keep(own, standing)
            proposer.ended(own.trial, own)
        assert proposer.is_over
        proposer.close()

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        identifier = self.storage.get_study_id_from_name("s")
        return self.storage.get_all_trials(identifier, states=states or None)


class Watched:
    """A storage each of whose changes is a step."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._world.storage, name)
        if not name.startswith(("set_", "create_new_trial")):
            return found

        def watched(*given: Any, **named: Any) -> Any:
            self._world.step()
            return found(*given, **named)

        return watched


def made(number: int, params: Any, *, control: bool, **changes: Any) -> Record:
    """The record of a trial that the search has proposed."""
    config = spaces.configured(SPACE.base, params, control=control)
    about = {"params": params, "control": control, **changes}
    return record(number, 0.9, 0.4, config, **about)


def climbed(proposal: Proposal) -> Record:
    """The record of a leg, whose trial is the more robust the larger its weight."""
    weight = proposal.params.get("regularizer.weight", 0.0)
    figures = {"clean_accuracy": 0.9, "robust_accuracy": weight}
    names = [f"rung-{number}/{name}" for number in range(1, 11) for name in figures]
    looks = dict.fromkeys(names[: 2 * proposal.leg.looks], 0.0)
    metrics = {name: figures[name.partition("/")[2]] for name in looks}
    own = made(proposal.number, proposal.params, control=proposal.control)
    if not proposal.leg.whole:
        return replace(own, status="stopped", reason="at a rung", metrics=metrics)
    return replace(own, metrics={**own.metrics, **metrics})


def point(params: Any) -> tuple[int, float | None]:
    return params["ipc"], params.get("regularizer.weight")


def numbered(world: World) -> dict[int, tuple[int, float | None]]:
    return {own.trial: point(own.params) for own in world.folder.records()}


def moved(number: int, to: int) -> dict[int, tuple[int, float | None]]:
    """The grid, but for one point that has another number."""
    found = dict(enumerate(POINTS))
    return {**{n: p for n, p in found.items() if n != number}, to: found[number]}


def assert_whole(world: World) -> None:
    """Each point of the grid has one record, under its own number, and one complete trial of
    Optuna's; nothing waits or runs."""
    records = world.folder.records()
    assert numbered(world) == dict(enumerate(POINTS))
    assert all(r.control == (point(r.params)[1] is None) for r in records)
    last = [chain[-1] for chain in chains(world.trials()) if not chain[-1].user_attrs.get(GAP)]
    assert sorted((point(fixed(trial)) for trial in last), key=str) == sorted(POINTS, key=str)
    told = {r.trial for r in records if r.status == "complete" and not r.control}
    assert {number_of(trial) for trial in world.trials(COMPLETE)} >= told
    assert {trial.state for trial in last} <= {COMPLETE, PRUNED}
    assert world.trials(WAITING, RUNNING) == []
