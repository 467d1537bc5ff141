"""What other studies have found out, as knowledge of a sampler.

A trial of another study is known to a search if it is the very trial that the search would run at
the same values of what it searches: then its figures may be compared, and in one output folder its
stages are shared.
"""

from __future__ import annotations

from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial

from guard.errors import ConfigError, StudyError
from guard.trial import TrialConfig
from tune.copies import brought
from tune.distributions import contains
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.standing import Standing
from tune.settling import FROM, outcome
from tune.space import Params, SearchSpace, configured


def take_over(
    study: optuna.Study, folders: Iterable[StudyFolder], space: SearchSpace, max_clean_drop: float
) -> None:
    """Tell a study of those trials of others that it does not know. Raises StudyError for a folder
    without a trial of the same meaning."""
    known = {trial.user_attrs.get(FROM) for trial in study.get_trials(deepcopy=False)}
    for folder in folders:
        for name, trial in known_to(folder, space, max_clean_drop).items():
            if name not in known:
                study.add_trial(trial)


def known_to(
    folder: StudyFolder, space: SearchSpace, max_clean_drop: float
) -> dict[str, FrozenTrial]:
    """The trials of another study that are trials of the space, by where they are from. Raises
    StudyError where there is none."""
    with brought(folder, alone=False):
        standing = Standing(folder, max_clean_drop)
    taken = {}
    for record in standing.records:
        params = place(record, space)
        if params is not None and record.status in ("complete", "diverged"):
            name, excess = f"{folder.name}/{record.trial}", standing.excess_of(record)
            taken[name] = outcome(record, params, space, excess, {FROM: name})
    if not taken:
        raise StudyError(
            f"--from: none of the {len(standing.records)} trials in {folder} is one that this "
            "search could run: data, model, recipes and attacks must be the same"
        )
    return taken


def place(record: Record, space: SearchSpace) -> Params | None:
    """Where a record's trial lies in the space; None for a control, and for one of another
    meaning."""
    config = TrialConfig.from_dict(record.config)
    values, params = config.flat(), Params()
    for path in space.paths:
        if space.active(path, params):
            if path not in values or not contains(space.distributions[path], values[path]):
                return None
            params[path] = values[path]
    try:
        made = configured(space.base, params)
    except ConfigError:
        return None
    return params if not record.control and made.fingerprint() == config.fingerprint() else None
