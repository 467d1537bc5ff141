from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from builders import record
from guard.trial import TrialConfig
from tune.planning import SAMPLERS, Plan, num_planned, open_study
from tune.results.folder import StudyFolder
from tune.results.standing import Standing
from tune.settling import is_control, number_of
from tune.space import CONTROL, SearchSpace
from tune.trainable import IS_CONTROL, NUMBER

SPACE = SearchSpace(
    TrialConfig(),
    {
        "ipc": CategoricalDistribution((1, 10)),
        "regularizer.weight": FloatDistribution(1e-3, 10, log=True),
    },
)


def plan(folder: Path, **changes: object) -> Plan:
    place = StudyFolder(folder, "s")
    return Plan(folder=place, space=SPACE, num_trials=8, **changes)  # type: ignore[arg-type]


def opened(wanted: Plan) -> optuna.Study:
    wanted.folder.path.mkdir(parents=True, exist_ok=True)
    return open_study(wanted, Standing(wanted.folder, 0.03))


def ask(study: optuna.Study) -> tuple[optuna.Trial, dict[str, object]]:
    trial = study.ask()
    about = {NUMBER: number_of(trial), IS_CONTROL: is_control(trial)}
    return trial, {**SPACE.suggest(trial), **about}


def test_every_study_begins_with_its_controls_then_the_presets_own_values(tmp_path: Path) -> None:
    study = opened(plan(tmp_path))
    sampled = [ask(study)[1] for _ in range(5)]
    assert [(s["ipc"], s[IS_CONTROL]) for s in sampled[:4]] == [
        (1, True),
        (10, True),
        (1, False),
        (10, False),
    ]
    assert "regularizer.weight" not in sampled[0]
    assert sampled[2]["regularizer.weight"] == 0.1
    assert [s[NUMBER] for s in sampled] == [0, 1, 2, 3, 4]
    assert num_planned(SPACE, "tpe") == 4


def test_opening_again_enqueues_nothing_twice(tmp_path: Path) -> None:
    opened(plan(tmp_path))
    study = opened(plan(tmp_path))
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 4
    for _ in range(4):
        trial, _ = ask(study)
        study.tell(trial, (0.5, 0.5))
    assert len(opened(plan(tmp_path)).trials) == 4


def test_a_trial_that_was_running_is_proposed_again_with_its_values(tmp_path: Path) -> None:
    study = opened(plan(tmp_path))
    for _ in range(4):
        trial, _ = ask(study)
        study.tell(trial, (0.5, 0.5))
    interrupted, sampled = ask(study)
    study = opened(plan(tmp_path))
    assert study.trials[interrupted.number].state == TrialState.FAIL
    _, again = ask(study)
    assert again == sampled
    assert len(opened(plan(tmp_path)).get_trials(states=(TrialState.WAITING,))) == 1


def test_an_interrupted_control_stays_a_control(tmp_path: Path) -> None:
    ask(opened(plan(tmp_path)))
    study = opened(plan(tmp_path))
    waiting = study.get_trials(states=(TrialState.WAITING,))
    controls = [trial for trial in waiting if trial.user_attrs.get(CONTROL)]
    assert len(waiting) == 4 and len(controls) == 2


def test_a_finished_record_settles_a_trial_that_was_not_told(tmp_path: Path) -> None:
    wanted = plan(tmp_path)
    trial, _ = ask(opened(wanted))
    wanted.folder.write(record(trial.number))
    study = opened(wanted)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    assert [own.values for own in done] == [[0.9, 0.4]]


def test_a_failed_trial_is_queued_again_once(tmp_path: Path) -> None:
    study = opened(plan(tmp_path))
    trial, _ = ask(study)
    study.tell(trial, state=TrialState.FAIL)
    for _ in range(3):
        study = opened(plan(tmp_path))
        assert len(study.get_trials(states=(TrialState.WAITING,))) == 4


def test_a_grid_is_enqueued_whole(tmp_path: Path) -> None:
    study = opened(plan(tmp_path, sampler="grid"))
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert len(waiting) == num_planned(SPACE, "grid") == 2 + 2 * 3


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_a_sampler_proposes_new_trials_after_a_restart(name: str, tmp_path: Path) -> None:
    weights = []
    for _ in range(3):
        study = opened(plan(tmp_path, sampler=name))
        while study.get_trials(states=(TrialState.WAITING,)):
            trial, _ = ask(study)
            study.tell(trial, (0.5, 0.5))
        trial, sampled = ask(study)
        study.tell(trial, (0.5, 0.5))
        weights.append(sampled["regularizer.weight"])
    assert len(set(weights)) == 3
