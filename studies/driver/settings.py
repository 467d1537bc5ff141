"""What `--set` and `--data` make of a preset's config and space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from guard.config.schema import Config, is_list
from guard.errors import ConfigError, StudyError
from guard.trial import TrialConfig
from studies.presets import Preset
from tune.distributions import parse_value, plain
from tune.space import SearchSpace

AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`--set` values by path: distributions or plain values.

    Raises StudyError for what is no PATH=VALUE, ConfigError for a distribution that cannot be.
    """
    parsed = {}
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise StudyError(f"--set: must be PATH=VALUE, got {text!r}")
        try:
            parsed[path.strip()] = parse_value(value)
        except ConfigError as error:
            raise error.under(path.strip()) from None
    return parsed


def search_space(preset: Preset, settings: Mapping[str, Any], data: str | None) -> SearchSpace:
    """The preset with `--set` and `--data` applied. A fixed value takes a path out of the space;
    inside a section that is searched as a whole it is the only choice. Raises ConfigError."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution

    searched = {k: v for k, v in settings.items() if isinstance(v, BaseDistribution)}
    sections = tuple(f"{path}." for path in searched)
    searched |= {
        path: CategoricalDistribution((value,))
        for path, value in settings.items()
        if path not in searched and path.startswith(sections)
    }
    fixed = {k: v for k, v in settings.items() if k not in searched}
    if data is not None:
        fixed["data.path"] = data
    inside_fixed = tuple(f"{path}." for path in fixed)
    kept = {k: v for k, v in preset.space.items() if not k.startswith(inside_fixed)}
    space = {path: d for path, d in {**kept, **searched}.items() if path not in fixed}
    methods = getattr(space.get("method"), "choices", ())
    return SearchSpace(base_config(preset.config, fixed, methods), space)


def base_config(
    config: TrialConfig, fixed: Mapping[str, Any], methods: Sequence[Any]
) -> TrialConfig:
    """The config with the fixed values, for the first of the searched methods that they fit.

    Raises ConfigError if they fit none.
    """
    refused = []
    for method in methods or [fixed.get("method", config.method)]:
        try:
            return overridden(config, {**fixed, "method": method})
        except ConfigError as error:
            refused.append(error)
    raise refused[0]


def overridden(config: AnyConfig, values: Mapping[str, Any]) -> AnyConfig:
    """The config with the values; for a field that holds a list, text "a,b" is one, and so is
    a lone value. Raises ConfigError."""

    def listed(path: str, value: Any) -> Any:
        if value is None or isinstance(value, list) or not is_list(type(config), path):
            return value
        if isinstance(value, str):
            return [plain(part.strip()) for part in value.split(",")]
        return [value]

    return config.override({path: listed(path, value) for path, value in values.items()})
