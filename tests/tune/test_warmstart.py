"""What other studies have found out, told to a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from builders import record
from guard.errors import StudyError
from guard.trial import TrialConfig
from tune.planning import Plan, prepare
from tune.results.folder import StudyFolder
from tune.results.standing import Standing
from tune.settling import CONSTRAINT, FROM
from tune.space import SearchSpace, configured
from tune.warmstart import known_to, place, take_over

SPACE = SearchSpace(
    TrialConfig(),
    {
        "ipc": CategoricalDistribution((1, 10)),
        "regularizer.weight": FloatDistribution(1e-3, 10, log=True),
    },
)
DROP = 0.03


def write(
    folder: StudyFolder, trial: int, weight: float | None, fields: Mapping[str, Any] | None = None
) -> None:
    """A trial of another study, 0.88 clean; without a weight its control, 0.9 clean."""
    params = {"ipc": 10} if weight is None else {"ipc": 10, "regularizer.weight": weight}
    base = TrialConfig().override(fields or {})
    config = configured(base, params, control=weight is None)
    clean = 0.9 if weight is None else 0.88
    folder.write(record(trial, clean, 0.4, config, params=params, control=weight is None))


@pytest.fixture
def other(tmp_path: Path) -> StudyFolder:
    """A control, and two trials that the space has."""
    folder = StudyFolder(tmp_path, "other")
    for trial, weight in enumerate((None, 0.1, 1.0)):
        write(folder, trial, weight)
    return folder


def test_trials_are_known_by_where_they_are_from(other: StudyFolder) -> None:
    found = known_to(other, SPACE, DROP)
    assert list(found) == ["other/1", "other/2"], "a control is no place in the space"
    first = found["other/1"]
    assert first.state == TrialState.COMPLETE and first.values == [0.88, 0.4]
    assert first.params == {"ipc": 10, "regularizer.weight": 0.1}
    assert first.user_attrs == {FROM: "other/1"}
    assert first.constraints[CONSTRAINT] == pytest.approx(0.9 - DROP - 0.88)


def test_what_the_search_could_not_run_is_left_out(other: StudyFolder) -> None:
    write(other, 3, 0.2, {"student.train.epochs": 7})
    write(other, 4, 0.2, {"regularizer.h": 0.7})
    write(other, 5, 50.0)
    assert list(known_to(other, SPACE, DROP)) == ["other/1", "other/2"]


def test_only_what_ended_by_itself_can_be_compared(other: StudyFolder) -> None:
    for trial, status in ((3, "diverged"), (4, "stopped"), (5, "failed")):
        write(other, trial, 0.2 + trial / 10)
        made = other.read(trial)
        assert made is not None
        other.write(replace(made, status=status))
    assert list(known_to(other, SPACE, DROP)) == ["other/1", "other/2", "other/3"]


def test_a_study_in_an_object_store_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"file://{tmp_path}/store"
    for machine in ("a", "b"):
        monkeypatch.setenv("GUARD_CACHE", str(tmp_path / machine))
        folder = StudyFolder.at(uri, "other")
        if machine == "a":
            write(folder, 1, 0.1)
    assert folder.records() == [], "nothing is on this machine"
    assert list(known_to(folder, SPACE, DROP)) == ["other/1"]


def test_a_study_of_another_meaning_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "other")
    write(folder, 0, 0.1, {"model.width": 64})
    with pytest.raises(StudyError) as caught:
        known_to(folder, SPACE, DROP)
    assert str(caught.value) == (
        f"--from: none of the 1 trials in {folder} is one that this search could run: data, "
        "model, recipes and attacks must be the same"
    )


def test_they_are_told_once_however_often_a_study_is_opened(
    tmp_path: Path, other: StudyFolder
) -> None:
    study = optuna.create_study(directions=["maximize", "maximize"])
    for count in (2, 2, 3):
        if count == 3:
            write(other, 3, 0.2)
        take_over(study, [other], SPACE, DROP)
        assert len(study.get_trials()) == count


def test_they_take_no_number_and_no_trial_of_the_search(tmp_path: Path, other: StudyFolder) -> None:
    plan = Plan(
        folder=StudyFolder(tmp_path, "s"),
        space=SPACE,
        num_trials=6,
        sampler="random",
        known=(other,),
    )
    study, standing = optuna.create_study(directions=["maximize", "maximize"]), None
    for _ in range(2):
        standing = Standing(plan.folder, DROP)
        prepare(study, plan, standing)
    assert standing is not None and standing.records == [] and standing.num_done == 0
    states = [trial.state for trial in study.get_trials()]
    assert states.count(TrialState.COMPLETE) == 2
    waiting = len(SPACE.controls()) + len(SPACE.defaults())
    assert states.count(TrialState.WAITING) == waiting


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ipc": 10, "regularizer.weight": 0.5}, {"ipc": 10, "regularizer.weight": 0.5}),
        ({"ipc": 5, "regularizer.weight": 0.5}, None),
        ({"ipc": 10, "regularizer.kind": "gradient-norm"}, None),
    ],
)
def test_a_trial_lies_where_the_search_would_run_it(
    fields: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    own = record(0, config=TrialConfig().override(fields), params={"seed": 3})
    assert place(own, SPACE) == expected
