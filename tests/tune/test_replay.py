"""A search replayed on a table of trials: what it finds, and what that costs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import Leg
from tried import RECORDS, SPACE, every_stage, seconds_of
from tune.planning import Plan
from tune.proposer import Proposal
from tune.replay import Mark, Table, replayed
from tune.results.folder import StudyFolder
from tune.results.front import choose
from tune.results.records import Record

DROP = 0.03
"""Clean accuracy that a trial may lose."""


def replay(tmp_path: Path, trials: int, **changes: object) -> list[Mark]:
    plan = Plan(folder=StudyFolder(tmp_path, "s"), space=SPACE, num_trials=trials, sampler="grid")
    return replayed(Table(RECORDS, SPACE), replace(plan, **changes), DROP, slots=2)


def test_a_replayed_grid_finds_and_costs_what_the_table_does(tmp_path: Path) -> None:
    last = replay(tmp_path, len(RECORDS), reduction=1.0)[-1]
    chosen = choose(RECORDS, DROP)
    assert chosen is not None and last.robust == chosen.objectives[1]
    assert 0 < last.hypervolume < chosen.objectives[1], "clean accuracy is below 1"
    once = {stage.address: stage for own in RECORDS for stage in needed(own)}
    assert last.stage_seconds == pytest.approx(sum(map(seconds_of, once.values())))


def needed(own: Record) -> list[Stage]:
    """What a trial needs that ends whole, at every look."""
    return every_stage(TrialConfig.from_dict(own.config))


def test_seconds_and_what_is_found_only_grow(tmp_path: Path) -> None:
    marks = replay(tmp_path, len(RECORDS), reduction=1.0)
    assert len(marks) == len(RECORDS)
    for before, after in itertools.pairwise(marks):
        assert after.stage_seconds >= before.stage_seconds
        assert after.hypervolume >= before.hypervolume


def test_trials_that_end_early_save_seconds_and_the_best_is_still_found(tmp_path: Path) -> None:
    whole = replay(tmp_path, 30, sampler="random", reduction=1.0)[-1]
    halved = replay(tmp_path, 30, sampler="random", reduction=2.0)[-1]
    assert halved.stage_seconds < 0.9 * whole.stage_seconds
    assert halved.robust == whole.robust


def test_the_same_seed_replays_the_same_search(tmp_path: Path) -> None:
    marks = [replay(tmp_path, 12, sampler="random", seed=seed) for seed in (0, 0, 1)]
    assert marks[0] == marks[1] != marks[2]


def proposal(weight: float, *, looks: int = 1, whole: bool = False) -> Proposal:
    params = {"ipc": 10, "regularizer.weight": weight}
    return Proposal(number=7, params=params, control=False, leg=Leg(looks=looks, whole=whole))


@pytest.mark.parametrize(("weight", "nearest"), [(0.03, 0.01), (0.033, 0.1), (0.9, 1.0)])
def test_a_trial_ends_as_the_nearest_on_the_space_s_own_scale(
    weight: float, nearest: float
) -> None:
    found = Table(RECORDS, SPACE).nearest(proposal(weight)).record
    assert found.params["regularizer.weight"] == pytest.approx(nearest)


def test_a_stopped_trial_shows_its_rungs_and_needs_its_teacher_alone() -> None:
    outcome, early = Table(RECORDS, SPACE).nearest(proposal(0.1)), proposal(0.1)
    seen = outcome.after(early)
    assert (seen.trial, seen.status, seen.rung) == (7, "stopped", 1)
    names = {address.partition("/")[0] for address in outcome.stages(early.leg)}
    assert "early-squeeze" in names and not {"squeeze", "recover", "student"} & names
    whole = proposal(0.1, looks=2, whole=True)
    assert outcome.after(whole).status == "complete" and outcome.after(whole).rung is None
    assert outcome.stages(early.leg).items() < outcome.stages(whole.leg).items()


def test_trials_at_almost_the_same_values_share_no_teacher(tmp_path: Path) -> None:
    table = Table(RECORDS, SPACE)
    assert table.drawn(proposal(0.1)) != table.drawn(proposal(0.1001))
    at_other_ipc = replace(proposal(0.1), params={"ipc": 1, "regularizer.weight": 0.1})
    assert table.drawn(proposal(0.1)) == table.drawn(at_other_ipc)


def test_a_table_does_not_answer_for_what_it_lacks() -> None:
    unknown = replace(proposal(0.1), params={"ipc": 5, "regularizer.weight": 0.1})
    with pytest.raises(KeyError):
        Table(RECORDS, SPACE).nearest(unknown)
