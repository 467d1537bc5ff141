"""A search that goes on: what Optuna knows of it is brought in line with the records on the disk.

A driver may have been killed at any moment, and a storage lost or copied from an earlier day. The
records are the truth: what has none that is finished runs (again), with what was fixed or drawn for
it; what has one does not. Optuna's trial keeps its number, and a repetition of it (another trial of
Optuna's) the number of its first, so that a repeated trial has one record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from guard.errors import ConfigError, StudyError
from guard.trial import TrialConfig
from tune.results.records import Record
from tune.results.standing import Standing
from tune.runs import Run
from tune.space import CONTROL, Params, SearchSpace, configured

RETRY_OF, REPEATS, GAP, FROM = "retry_of", "repeats", "gap", "from"
"""User attributes of Optuna's trials: number of the one that it follows, number of the record that
it is to make, whether it only takes a number that no record has, and which trial of another study
it is."""

CONSTRAINT, REASON = "clean accuracy lost, less what may be", "reason"
"""Names of what Optuna keeps of a trial beside its values."""


def settle(study: optuna.Study, standing: Standing, space: SearchSpace) -> None:
    """Close what a stopped driver left running or waiting although it is finished, take in records
    that Optuna lacks, and queue what did not finish. A kill in the middle of it does no harm."""
    _restore(study, standing, space)
    for trials in chains(study.get_trials(deepcopy=False)):
        last = trials[-1]
        number = number_of(last)
        record = standing.of(number)
        for earlier in {trial.number for trial in trials} - {number}:
            standing.forget_failure(earlier)
        if last.state == TrialState.COMPLETE or is_foreign(last):
            continue
        if record is not None and record.finished:
            if last.state != state_of(record):
                _conclude(study, last, record, space, standing.excess_of(record))
        elif last.state != TrialState.WAITING:
            if last.state == TrialState.RUNNING:
                study.tell(last.number, state=TrialState.FAIL)
            attributes = {**last.user_attrs, RETRY_OF: last.number, REPEATS: number}
            study.enqueue_trial(fixed(last), user_attrs=attributes)
            standing.forget_failure(number)


def queued(study: optuna.Study, space: SearchSpace) -> Iterator[TrialConfig]:
    """Of the trials that wait to be run, in that order, as far as they can be."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        with contextlib.suppress(ConfigError):
            yield configured(space.base, fixed(trial), control=is_control(trial))


def lost(study: optuna.Study, standing: Standing, space: SearchSpace) -> list[Run]:
    """Trials that Optuna has as complete and of which the record is gone, and those of which the
    verdicts are."""
    every = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    found = {number_of(trial): trial for trial in every if not is_foreign(trial)}

    def is_lost(number: int, trial: FrozenTrial) -> bool:
        record = standing.of(number)
        return trial.state == TrialState.COMPLETE if record is None else not record.is_done

    return [
        Run(
            trial=number,
            config=configured(space.base, trial.params, control=is_control(trial)),
            params=trial.params,
            control=is_control(trial),
        )
        for number, trial in sorted(found.items())
        if is_lost(number, trial)
    ]


def enqueue_new(study: optuna.Study, controls: Iterable[Params], others: Iterable[Params]) -> None:
    """Queue what no trial of the study has been, is, or waits to be."""
    every = [trial for trial in study.get_trials(deepcopy=False) if not is_foreign(trial)]
    known = {(_text(fixed(trial)), is_control(trial)) for trial in every}
    for wanted, control in ((controls, True), (others, False)):
        for params in wanted:
            if (_text(params), control) not in known:
                known.add((_text(params), control))
                study.enqueue_trial(params, user_attrs={CONTROL: True} if control else {})


def number_of(trial: Any) -> int:
    """Of the record that a trial of Optuna's makes."""
    number: int = trial.user_attrs.get(REPEATS, trial.number)
    return number


def is_foreign(trial: Any) -> bool:
    """Whether it never has a record here."""
    return bool({GAP, FROM} & trial.user_attrs.keys())


def is_control(trial: Any) -> bool:
    return bool(trial.user_attrs.get(CONTROL))


def fixed(trial: FrozenTrial) -> Params:
    """What a trial must have: what was fixed when it was queued, and what was drawn since."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def chains(trials: Sequence[FrozenTrial]) -> list[list[FrozenTrial]]:
    """Each trial with its repetitions, in order."""
    found: dict[int, list[FrozenTrial]] = {}
    first: dict[int, int] = {}
    for trial in trials:
        earlier = trial.user_attrs.get(RETRY_OF, trial.number)
        first[trial.number] = first.get(earlier, trial.number)
        found.setdefault(first[trial.number], []).append(trial)
    return list(found.values())


def state_of(record: Record | None) -> TrialState:
    """What a record is to Optuna. Values are told of what may be compared: not of a trial that was
    stopped early, nor of a control, which has no place in the space that is searched."""
    if record is None or not record.finished:
        return TrialState.FAIL
    is_told = record.status != "stopped" and not record.control
    return TrialState.COMPLETE if is_told else TrialState.PRUNED


def tell(
    study: optuna.Study,
    trial: optuna.Trial | None,
    record: Record | None,
    space: SearchSpace,
    excess: float,
) -> None:
    """Tell a study how a trial of its ended. trial: None for one that it had closed before the
    trial went on. record: None if it has none."""
    state = state_of(record)
    if trial is None:
        assert record is not None
        known = [own for own in study.get_trials(deepcopy=False) if number_of(own) == record.trial]
        _add(study, known[-1].number, record, space, excess)
        return
    if record is not None and state == TrialState.COMPLETE:
        if not trial.constraints:  # a driver may have been killed after this
            trial.set_constraint(CONSTRAINT, excess)
        study.tell(trial, record.objectives)
        return
    if record is not None and state == TrialState.PRUNED:
        for name, value in shown(record).items():
            trial.set_user_attr(name, value)
    study.tell(trial, state=state)


def shown(record: Record) -> Params:
    """What Optuna is shown, and not told, of a trial without comparable values."""
    if record.control:
        return dict(zip(("clean", "robust"), record.objectives, strict=True))
    return {REASON: record.reason}


def _conclude(
    study: optuna.Study, trial: FrozenTrial, record: Record, space: SearchSpace, excess: float
) -> None:
    """Tell the study how a trial of Optuna's ended, by its record."""
    if trial.state == TrialState.RUNNING and trial.params.keys() == record.params.keys():
        tell(study, optuna.Trial(study, trial._trial_id), record, space, excess)
        return
    if not trial.state.is_finished():
        study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    _add(study, trial.number, record, space, excess)


def _add(
    study: optuna.Study, after: int, record: Record, space: SearchSpace, excess: float
) -> None:
    """Give a study the outcome of a trial that it cannot be told any more. after: the number that
    Optuna had it under."""
    attributes = {RETRY_OF: after, REPEATS: record.trial}
    study.add_trial(outcome(record, dict(record.params), space, excess, attributes))


def _restore(study: optuna.Study, standing: Standing, space: SearchSpace) -> None:
    """Give the study the trials of records that are later than all of its own, under their numbers.
    A number without a record is left out, so that no other trial gets it. Raises StudyError for a
    record of another study."""
    first = len(study.get_trials(deepcopy=False))
    last = max((record.trial for record in standing.records), default=-1)
    for number in range(first, last + 1):
        record = standing.of(number)
        if record is not None and not _is_of(record, space):
            path = standing.folder.record_path(record)
            raise StudyError(f"{path}: is the record of another study; move it away")
        if record is None:
            trial = create_trial(state=TrialState.FAIL, user_attrs={GAP: True})
        elif record.finished:
            excess = standing.excess_of(record)
            trial = outcome(record, dict(record.params), space, excess, {})
        else:
            queued = {"fixed_params": dict(record.params)}
            attributes = {CONTROL: True} if record.control else {}
            trial = create_trial(state=TrialState.FAIL, system_attrs=queued, user_attrs=attributes)
        study.add_trial(trial)


def _is_of(record: Record, space: SearchSpace) -> bool:
    """Whether the search could have made the record."""
    if not record.params.keys() <= space.distributions.keys():
        return False
    own = TrialConfig.from_dict(record.config).fingerprint()
    try:
        made = configured(space.base, dict(record.params), control=record.control)
    except ConfigError:
        return False
    return made.fingerprint() == own


def outcome(
    record: Record, params: Params, space: SearchSpace, excess: float, attributes: Params
) -> FrozenTrial:
    """A record as a finished trial of Optuna's, at some place of the space."""
    control = {CONTROL: True} if record.control else {}
    state = state_of(record)
    is_told = state == TrialState.COMPLETE
    return create_trial(
        state=state,
        values=record.objectives if is_told else None,
        params=params,
        distributions={path: space.distributions[path] for path in params},
        user_attrs={**control, **attributes, **({} if is_told else shown(record))},
        constraints={CONSTRAINT: excess} if is_told else None,
    )


def _text(params: Params) -> str:
    return json.dumps(params, sort_keys=True)
