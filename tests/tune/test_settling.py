"""What a killed driver, a lost storage or a lost record leaves, and what becomes of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from worlds import (
    FAIL,
    IPCS,
    POINTS,
    PRUNED,
    SPACE,
    WEIGHTS,
    Killed,
    World,
    assert_whole,
    made,
    moved,
    numbered,
    point,
)

from guard.errors import StudyError
from guard.trial import TrialConfig
from tune import space as spaces
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.standing import Standing
from tune.settling import REPEATS, RETRY_OF, queued


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Of a search that has not begun; a config is built once."""
    build, known = spaces.configured, dict[str, TrialConfig]()

    def configured(base: TrialConfig, params: Any, *, control: bool = False) -> TrialConfig:
        key = json.dumps([params, control], sort_keys=True)
        return known.get(key) or known.setdefault(key, build(base, params, control=control))

    for module in ("tune.space", "tune.settling", "tune.proposer"):
        monkeypatch.setattr(f"{module}.configured", configured)
    monkeypatch.setattr("optuna.storages.get_storage", lambda storage: storage)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return World(StudyFolder(tmp_path, "s"))


def test_an_undisturbed_grid_is_whole(world: World) -> None:
    world.run()
    assert_whole(world)
    world.run()
    assert_whole(world)


@pytest.mark.parametrize("reduction", [1.0, 2.0])
def test_a_driver_killed_at_any_step_and_again_leaves_no_hole_and_nothing_double(
    reduction: float, world: World
) -> None:
    world.reduction = reduction
    world.run()
    for moment in range(1, world.steps + 1):
        place = StudyFolder(world.folder.output / str(moment), "s")
        again = World(place, reduction=reduction, kill_at=moment)
        with pytest.raises(Killed):
            again.run()
        again.kill_at = again.steps + 1 + moment % 7
        with contextlib.suppress(Killed):
            again.run()
        again.kill_at = -1
        again.run()
        assert_whole(again)
        best = [own for own in again.folder.records() if point(own.params)[1] == WEIGHTS[-1]]
        assert "complete" in {own.status for own in best}


Leaves = Callable[[World, optuna.Study, Standing], None]


def waiting(world: World, study: optuna.Study, standing: Standing) -> None:
    """Killed before anything was asked for."""


def without_params(world: World, study: optuna.Study, standing: Standing) -> None:
    """Killed in `ask`."""
    study.ask()


def with_some_params(world: World, study: optuna.Study, standing: Standing) -> None:
    """Killed while they are drawn."""
    for _ in POINTS[:3]:
        trial = study.ask()
        trial.suggest_categorical("ipc", IPCS)


def with_all_params(world: World, study: optuna.Study, standing: Standing) -> None:
    """Killed while it runs."""
    world.asked(study)


def with_a_record(world: World, study: optuna.Study, standing: Standing) -> None:
    """Killed before Optuna was told."""
    world.keep(world.asked(study)[1], standing)


def failed(world: World, study: optuna.Study, standing: Standing) -> None:
    """A trial failed by itself."""
    trial, own = world.asked(study)
    world.folder.write(Record(**{**vars(own), "status": "failed", "metrics": {}}))
    study.tell(trial, state=FAIL)


def failed_and_finished(world: World, study: optuna.Study, standing: Standing) -> None:
    """Its process died when its record was written."""
    trial, own = world.asked(study)
    world.folder.write(own)
    study.tell(trial, state=FAIL)


def stopped(world: World, study: optuna.Study, standing: Standing) -> None:
    """Tune stopped the trial."""
    study.tell(world.asked(study)[0], state=PRUNED)


def told_without_a_record(world: World, study: optuna.Study, standing: Standing) -> None:
    """A record was deleted, or set aside since it could not be read."""
    trial, own = world.asked(study)
    study.tell(trial, own.objectives)


def recorded_before_it_was_asked_for(world: World, study: optuna.Study, standing: Standing) -> None:
    """The storage is a copy from an earlier day."""
    world.folder.write(made(1, {"ipc": 10}, control=True))


@pytest.mark.parametrize(
    "leave",
    [
        waiting,
        without_params,
        with_some_params,
        with_all_params,
        with_a_record,
        failed,
        failed_and_finished,
        stopped,
        told_without_a_record,
        recorded_before_it_was_asked_for,
    ],
)
def test_what_is_left_is_done_exactly_once(leave: Leaves, world: World) -> None:
    leave(world, *world.started())
    world.run()
    assert_whole(world)
    world.run()
    assert_whole(world)


@pytest.mark.parametrize("count", [1, 5, len(POINTS)])
def test_a_lost_storage_is_made_again_from_the_records(count: int, world: World) -> None:
    study, standing = world.started()
    for _ in range(count):
        world.keep(world.asked(study)[1], standing)
    world.storage = optuna.storages.InMemoryStorage()
    world.run()
    assert_whole(world)


def test_a_lost_storage_and_a_lost_record_leave_no_number_twice(world: World) -> None:
    world.run()
    world.folder.remove(world.folder.records()[3])
    world.storage = optuna.storages.InMemoryStorage()
    world.run()
    assert numbered(world) == moved(3, 8)


def test_a_record_of_another_study_is_refused(world: World) -> None:
    other = made(30, {"ipc": 1, "regularizer.weight": 0.01}, control=False)
    changed = TrialConfig.from_dict(other.config).override({"squeeze.epochs": 3})
    world.folder.write(Record(**{**vars(other), "config": changed.to_dict()}))
    with pytest.raises(StudyError, match=r"trials/00030\.json: is the record of another study"):
        world.started()


def test_a_repetition_of_a_repetition_has_the_number_of_the_first(world: World) -> None:
    study, standing = world.started()
    world.asked(study)
    for _ in POINTS[1:]:
        trial, own = world.asked(study)
        world.keep(own, standing)
        study.tell(trial, own.objectives)
    for _ in range(2):
        world.asked(world.started()[0])
    world.started()
    chain = [trial.user_attrs for trial in world.trials() if RETRY_OF in trial.user_attrs]
    assert [(own[RETRY_OF], own[REPEATS]) for own in chain] == [(0, 0), (8, 0), (9, 0)]
    world.run()
    assert_whole(world)


def test_the_failed_row_of_an_older_version_goes_with_its_repetition(world: World) -> None:
    """Its repetitions had numbers of their own."""
    study, standing = world.started()
    failed(world, study, standing)
    params = {"ipc": 1}
    study.enqueue_trial(params, user_attrs={"control": True, RETRY_OF: 0})
    world.run()
    assert numbered(world) == moved(0, 8)


def test_what_waits_is_known_in_the_order_in_which_it_runs(tmp_path: Path) -> None:
    world = World(StudyFolder(tmp_path, "s"))
    study, _ = world.started()
    waiting = list(queued(study, SPACE))
    assert [config.ipc for config in waiting] == [ipc for ipc, _ in POINTS]
    assert [config.regularizer.active for config in waiting] == [w is not None for _, w in POINTS]
    own = world.asked(study)[1]
    assert waiting[0].fingerprint() == own.fingerprint
    assert list(queued(study, SPACE)) == waiting[1:]
