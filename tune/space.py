"""Search space: dotted config paths with distributions, conditional on method and penalty."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from guard.errors import ConfigError
from guard.trial import TrialConfig, methods, sections
from tune.distributions import Suggests, contains, extremes, nearest, spread, suggested
from tune.results.front import PLACE

Params = dict[str, Any]
CONTROL = "control"
"""Optuna user attribute of the trials without a penalty that every study starts with."""
CONTROL_POINTS = 3
"""Values of each numeric path, other than the regularizer's, that controls are run at."""
FIRST = ("method", "student.labels", "regularizer", "regularizer.kind")
"""What other paths depend on, so it is drawn first."""
PLACES = (*PLACE, "student.labels")
"""What decides where a trial has its control."""
MOST = 16
"""Of the controls, and of the trials at the base's own values, that come first."""


@dataclass(frozen=True)
class SearchSpace:
    """What a study varies, and the config that holds for the rest.

    Raises ConfigError, when it is made, for a path that does not exist or a value that a trial
    could not have.
    """

    base: TrialConfig
    distributions: Mapping[str, BaseDistribution]

    def __post_init__(self) -> None:
        for path, distribution in self.distributions.items():
            for value in extremes(distribution):
                configured(self.base, {path: value})

    def check_combinations(self) -> None:
        """Raises ConfigError if choices that a sampler may combine have no meaning together."""
        for params in self._combinations([path for path in self.paths if path in FIRST], 1):
            configured(self.base, params)

    @property
    def paths(self) -> list[str]:
        """In the order in which they are drawn."""
        first = [path for path in FIRST if path in self.distributions]
        return first + [path for path in self.distributions if path not in FIRST]

    def active(self, path: str, drawn: Params) -> bool:
        """Whether a trial that has drawn `drawn` so far reads `path`."""
        config = self._first(drawn)
        if config is None:
            return False
        section, _, name = path.partition(".")
        if section == "regularizer":
            used = not name or name in config.regularizer.fields_used()
            return used and config.can_be_regularized
        return reads(config, path)

    def _first(self, drawn: Params) -> TrialConfig | None:
        """The base with what other paths depend on; None where the draws have no meaning."""
        values = {key: drawn[key] for key in FIRST if key in drawn}
        name = json.dumps(values)
        if name not in self._known:
            try:
                self._known[name] = configured(self.base, values)
            except ConfigError:
                self._known[name] = None
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, TrialConfig | None]:
        """What `_first` has found: the draws that it depends on are few."""
        return {}

    def suggest(self, trial: Suggests) -> Params:
        """Draw what the trial reads (define-by-run). A control draws no field of a regularizer."""
        params: Params = {}
        control = bool(trial.user_attrs.get(CONTROL))
        for path in self.paths:
            if self.active(path, params) and not (control and is_regularizer(path)):
                params[path] = suggested(trial, path, self.distributions[path])
        return params

    def controls(self, *, every: bool = False) -> list[Params]:
        """Unregularized trials: every combination of choices, and of a few values of each numeric
        distribution, of what is no field of the regularizer. So both arms are searched. Of more
        than `MOST`, unless `every` one is wanted, those at the base's own values, or next to them,
        for each of `PLACES`."""
        most = math.inf if every else MOST
        found = self._combinations(self._unregularized, CONTROL_POINTS, most)
        return found if len(found) <= most else self._at_own_values()

    def control_configs(self) -> list[TrialConfig]:
        """The controls as configs, and whatever differs from one in one value. Raises
        ConfigError."""
        controls = self.controls()
        changed = (
            {**params, path: value}
            for params in controls
            for path in params.keys() - set(PLACES)
            for value in spread(self.distributions[path], CONTROL_POINTS)
        )
        wanted = {json.dumps(params, sort_keys=True): params for params in (*controls, *changed)}
        return [configured(self.base, params, control=True) for params in wanted.values()]

    def defaults(self) -> list[Params]:
        """The base config's own values for each choice of what is no field of the regularizer,
        where the space holds them all. Of more than `MOST` those for each of `PLACES`."""
        flat = self.base.flat()
        choices = [
            path
            for path in self.paths
            if isinstance(self.distributions[path], CategoricalDistribution)
            and not is_regularizer(path)
        ]
        every = self._combinations(choices, 1, MOST)
        found = []
        for chosen in every if len(every) <= MOST else self._at_own_values():
            params: Params = {}
            for path in self.paths:
                if self.active(path, {**chosen, **params}):
                    params[path] = chosen.get(path, flat.get(path))
            known = all(contains(self.distributions[path], value) for path, value in params.items())
            if known and configured(self.base, params).can_be_regularized:
                found.append(params)
        return found

    @property
    def _unregularized(self) -> list[str]:
        return [path for path in self.paths if not is_regularizer(path)]

    def _at_own_values(self) -> list[Params]:
        """Every combination of `PLACES`, and of all else that an unregularized trial reads there
        the base's own value, or the one next to it."""
        flat, found = self.base.flat(), []
        for place in self._combinations([p for p in self.paths if p in PLACES], CONTROL_POINTS):
            params: Params = {}
            for path in self._unregularized:
                if self.active(path, {**place, **params}):
                    own = nearest(self.distributions[path], flat.get(path))
                    params[path] = place.get(path, own)
            found.append(params)
        return found

    def grid(self, points: int) -> list[Params]:
        """Every combination of choices, and of `points` values of each numeric distribution, that
        has a meaning and is no control."""
        combinations = self._combinations(self.paths, points)
        return [params for params in combinations if self._is_regularized(params)]

    def _is_regularized(self, params: Params) -> bool:
        try:
            config = configured(self.base, params)
        except ConfigError:
            return False
        return config.can_be_regularized and config.regularizer.active

    def _combinations(self, paths: list[str], points: int, most: float = math.inf) -> list[Params]:
        """Of values of the paths; no longer ones where they are more than `most` already."""
        combinations: list[Params] = [{}]
        for path in paths:
            if len(combinations) > most:
                break
            values = spread(self.distributions[path], points)
            combinations = [
                {**params, path: value} if self.active(path, params) else params
                for params in combinations
                for value in (values if self.active(path, params) else values[:1])
            ]
        return combinations


def reads(config: TrialConfig, path: str) -> bool:
    """Whether a trial reads a path that is no regularizer's, as far as its method and its labels
    decide it."""
    section, own = path.partition(".")[0], type(config.own)
    if section == "labels" or (section == "squeeze" and config.is_taught):
        return config.is_taught
    if path == "ipc":
        return own.takes_ipc
    others = {name for method in methods().values() for name in sections(method)}
    return section not in others or section in sections(own)


def is_regularizer(path: str) -> bool:
    return path.partition(".")[0] == "regularizer"


def configured(base: TrialConfig, params: Params, *, control: bool = False) -> TrialConfig:
    """The config of a trial. A control, and a method that picks real images, has no regularizer.
    Raises ConfigError."""
    chosen = {path: value for path, value in params.items() if not is_regularizer(path)}
    plain = base.override({**chosen, "regularizer": "none"})
    return plain if control or not plain.can_be_regularized else base.override(params)
