"""What a search does next, and what its sampler knows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from builders import record
from guard.trial import TrialConfig
from guard.trial_stages import Leg
from tune.planning import Plan, prepare
from tune.proposer import Proposal, Proposer, rungs_of
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.results.records import Record
from tune.results.standing import Standing
from tune.settling import CONSTRAINT
from tune.space import SearchSpace, configured

SPACE = SearchSpace(
    TrialConfig(),
    {
        "ipc": CategoricalDistribution((1, 10)),
        "regularizer.weight": FloatDistribution(1e-3, 10, log=True),
    },
)
COUNT = len(rungs_of(TrialConfig()))
"""Rungs of a trial."""


@dataclass
class Search:
    """A search of trials whose figures are given."""

    folder: StudyFolder
    reduction: float = 2.0
    control_clean: float = 0.9
    num_trials: int = 12
    study: optuna.Study = field(
        default_factory=lambda: optuna.create_study(directions=["maximize", "maximize"])
    )
    standing: Standing = field(init=False)
    proposer: Proposer = field(init=False)

    def __post_init__(self) -> None:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        plan = Plan(folder=self.folder, space=SPACE, num_trials=self.num_trials, sampler="random")
        self.standing = Standing(self.folder, 0.03)
        prepare(self.study, plan, self.standing)
        budget = self.num_trials - self.standing.num_done
        self.proposer = Proposer(self.study, SPACE, self.standing, budget, self.reduction)

    def next(self) -> Proposal:
        found = self.proposer.next()
        assert found is not None
        return found

    def end(self, proposal: Proposal, clean: float, robust: float) -> Record:
        """With the same figures at every rung and at its end."""
        looks = range(1, proposal.leg.looks + 1)
        figures = {"clean_accuracy": clean, "robust_accuracy": robust}
        at_rungs = {f"rung-{n}/{name}": value for n in looks for name, value in figures.items()}
        config = configured(SPACE.base, proposal.params, control=proposal.control)
        about = {"params": proposal.params, "control": proposal.control}
        own = record(proposal.number, clean, robust, config, **about)
        own = replace(own, metrics={**own.metrics, **at_rungs})
        if not proposal.leg.whole:
            own = replace(own, status="stopped", reason="at a rung", metrics=at_rungs)
        self.folder.write(own)
        self.standing.add([own])
        self.proposer.ended(own.trial, own)
        return own

    def run(self) -> None:
        """Each trial as robust as it is strongly regularized, and the less clean for it."""
        while (proposal := self.proposer.next()) is not None:
            weight = proposal.params.get("regularizer.weight", 0.0)
            self.end(proposal, self.control_clean - weight / 100, 0.1 + weight / 20)
        self.proposer.close()

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study.get_trials(deepcopy=False)]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(StudyFolder(tmp_path, "s"))


def test_controls_run_whole_and_the_others_begin_with_a_look(search: Search) -> None:
    legs = [search.next() for _ in range(5)]
    assert [own.control for own in legs] == [True, True, False, False, False]
    assert {own.leg for own in legs[:2]} == {Leg(looks=COUNT)}
    assert {own.leg for own in legs[2:]} == {Leg(looks=1, whole=False)}


def test_the_best_of_a_rung_go_on_to_the_end_and_nothing_runs_twice(search: Search) -> None:
    legs: list[tuple[int, Leg]] = []
    while (proposal := search.proposer.next()) is not None:
        legs.append((proposal.number, proposal.leg))
        search.end(proposal, 0.9, 0.9 - 0.05 * proposal.number)
    assert search.proposer.is_over and len(set(legs)) == len(legs)
    statuses = {own.trial: own.status for own in search.folder.records()}
    assert len(statuses) == search.num_trials
    stopped = [number for number, status in statuses.items() if status == "stopped"]
    assert len(stopped) > 4 and not {0, 1, 2} & set(stopped), "controls, and the best"
    assert dict(legs)[2] == Leg(looks=COUNT, whole=True)


def test_with_a_reduction_of_one_every_trial_goes_to_its_end(tmp_path: Path) -> None:
    search = Search(StudyFolder(tmp_path, "s"), reduction=1.0)
    search.run()
    assert {own.status for own in search.folder.records()} == {"complete"}


def test_stopped_trials_go_on_when_more_may(search: Search) -> None:
    search.run()
    assert "stopped" in {own.status for own in search.folder.records()}
    again = Search(search.folder, reduction=1.0, study=search.study)
    assert not again.proposer.is_over
    again.run()
    assert {own.status for own in search.folder.records()} == {"complete"}
    complete = [t for t in again.study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    assert len(complete) == search.num_trials - 2  # all but the controls


def test_a_sampler_is_told_what_may_be_compared_alone(search: Search) -> None:
    search.run()
    told = {True: TrialState.COMPLETE, False: TrialState.PRUNED}
    by_number = {own.trial: own for own in search.folder.records()}
    for trial in search.study.get_trials(deepcopy=False):
        own = by_number[trial.number]
        assert trial.state == told[own.status == "complete" and not own.control]
        assert (trial.values is None) == (trial.state == TrialState.PRUNED)


def test_trials_wait_for_their_controls_before_the_sampler_is_told(search: Search) -> None:
    controls = [search.next() for _ in range(2)]
    first = search.next()
    search.end(first, 0.9, 0.5)
    while (proposal := search.next()).number != first.number:
        search.end(proposal, 0.9, 0.4)
    for _ in range(COUNT - 1):
        search.end(proposal, 0.9, 0.5)
        proposal = search.next()
    search.end(proposal, 0.9, 0.5)
    assert TrialState.COMPLETE not in search.states()
    for control in controls:
        search.end(control, 0.9, 0.1)
    assert search.states().count(TrialState.COMPLETE) == 1


def test_what_the_sampler_may_choose_is_what_the_search_chooses(tmp_path: Path) -> None:
    search = Search(StudyFolder(tmp_path, "s"), reduction=1.0, num_trials=20)
    search.run()
    best = choose(search.folder.records(), 0.03)
    assert best is not None
    feasible = [
        trial
        for trial in search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.constraints[CONSTRAINT] <= 0
    ]
    most = max(feasible, key=lambda trial: trial.values[1])
    assert most.params == best.params and len(feasible) < 18


def test_a_teacher_goes_on_by_what_it_keeps_under_attack_not_by_what_it_knows(
    search: Search,
) -> None:
    """The constraint is of a trial's end: a rung's clean accuracy breaks none."""
    for _ in range(2):
        search.end(search.next(), 0.9, 0.1)
    while (proposal := search.proposer.next()) is not None:
        search.end(proposal, 0.9 if proposal.number % 2 else 0.5, 0.3)
    records = [own for own in search.folder.records() if not own.control]
    whole = {own.trial for own in records if own.status == "complete"}
    assert {own.trial for own in records if own.trial % 2 == 0} <= whole
    assert {own.trial for own in records if own.status == "stopped"}


def test_the_reason_says_place_and_places(search: Search) -> None:
    search.run()
    reasons = [own.reason for own in search.proposer.explained()]
    assert reasons and all(
        " go on" in reason and "of 10, 5 go on" in reasons[0] for reason in reasons
    )


def test_a_failed_trial_is_told_and_the_others_go_on(search: Search) -> None:
    proposal = search.next()
    search.proposer.ended(proposal.number, None)
    assert search.states()[0] == TrialState.FAIL
    search.run()
    assert search.proposer.is_over
