"""A trial's config leaf by leaf: its file, its fingerprint, its named settings."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from guard.config import DataConfig
from guard.config.rules import OneOf
from guard.config.schema import Config, later, type_hints
from guard.trial import TrialConfig, methods

ADVERSARY = {"kind": "trades", "power": 1, "eps": 0.1}
TRAJECTORIES = ("mtt", "tesla", "mat", "datm")
DISTRIBUTIONS = ("dm", "idm", "ncfm", "rome", "c2r")
FULL = TrialConfig().override(
    {
        "student.model": {},
        "model.norm": "batch",
        "method": "mtt",
        "regularizer.power": 1,
        "regularizer.eps": 0.1,
        "student.regularizer": ADVERSARY,
        "sre2l.crop": "batch",
        "cda.curriculum": "none",
        "rded.budget": 12,
        "sre2l.patches": {"budget": 12},
        "cda.patches": {"budget": 12},
        "sre2l.committee": {},
        "cda.committee": {},
        "dm.networks": {},
        "c2r.contrast_weight": 0,
        "datm.lr_labels": 0,
        "tesla.soft_labels": False,
        "datm.start_known": False,
        **{f"{name}.gradient": "tesla" for name in TRAJECTORIES},
        **{f"{name}.experts.adversary": ADVERSARY for name in TRAJECTORIES},
        **{f"{name}.experts.train.augment": ["flip"] for name in TRAJECTORIES},
        **{f"{name}.adversary": ADVERSARY for name in DISTRIBUTIONS},
        **{f"{name}.model": {} for name in ("dc", "dsa", *TRAJECTORIES, *DISTRIBUTIONS)},
    }
)
"""A trial in which every leaf may take another value, but for these."""
UNIQUE = {
    "student.hard_epochs",
    "student.regularizer.ascent",
    *(f"{name}.adversary.ascent" for name in DISTRIBUTIONS),
    *(f"{name}.negatives" for name in DISTRIBUTIONS),
}
LEAVES = sorted(FULL.flat().keys() - UNIQUE)


def leaf_hint(path: str) -> Any:
    hint: Any = TrialConfig
    for name in path.split("."):
        hint = type_hints(section_of(hint))[name]
    return hint


def section_of(hint: Any) -> type[Config]:
    options = get_args(hint) or (hint,)
    return next(o for o in options if isinstance(o, type) and issubclass(o, Config))


def another(hint: Any, value: Any) -> Any:
    """A valid value of the leaf that is not `value`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        tables = [rule.table for rule in arguments[1:] if isinstance(rule, OneOf)]
        return other_name(tables[0], value) if tables else another(arguments[0], value)
    if origin is Literal:
        return next(option for option in arguments if option != value)
    if origin in (Union, types.UnionType):
        return 5 if value is None else another(arguments[0], value)
    if origin is tuple:
        return another_list(arguments[0], value)
    changes = {bool: lambda: not value, int: lambda: value + 1, float: lambda: value * 0.5 + 0.01}
    return changes[hint]() if hint in changes else value + "x"


def other_name(table: Collection[str], *values: str) -> str:
    return next(name for name in table if name not in values)


def another_list(item: Any, value: list[Any]) -> list[Any]:
    if get_origin(item) is Literal:
        return next([option] for option in get_args(item) if [option] != value)
    tables = [rule.table for rule in get_args(item)[1:] if isinstance(rule, OneOf)]
    if tables:
        return [other_name(tables[0], *value)]
    kind = next(option for option in (*get_args(item), item) if isinstance(option, type))
    if issubclass(kind, Config):
        return [kind().to_dict()]
    return {str: ["mim"], int: [7]}.get(kind, [0.3])


def changed(path: str, base: TrialConfig = FULL) -> TrialConfig:
    value = base.flat()[path]
    chosen = other_name(methods(), value) if path == "method" else another(leaf_hint(path), value)
    return base.override({path: chosen})


def test_a_trial_survives_json() -> None:
    assert TrialConfig.from_json(FULL.to_json()) == FULL
    assert TrialConfig.from_dict(TrialConfig().to_dict()) == TrialConfig()


@pytest.mark.parametrize("path", LEAVES)
def test_a_fingerprint_changes_with_any_leaf(path: str) -> None:
    base = using(path)
    assert changed(path, base).flat()[path] != base.flat()[path]
    assert changed(path, base).fingerprint() != base.fingerprint()


def using(path: str) -> TrialConfig:
    """A trial to which the path says something: a method that was added later is the trial's."""
    section = path.partition(".")[0]
    if section not in LATER_METHODS:
        return FULL
    return FULL.override({"method": section, "regularizer": "none", "student.learned_lr": False})


LATER_METHODS = sorted(later(TrialConfig).keys() & methods().keys())


@pytest.mark.parametrize("name", LATER_METHODS)
def test_a_method_that_was_added_later_says_nothing_where_it_is_not_used(name: str) -> None:
    for path in (path for path in LEAVES if path.startswith(f"{name}.")):
        assert changed(path).fingerprint() == FULL.fingerprint()
    assert not {path for path in TrialConfig().stated() if path.startswith(f"{name}.")}
    assert name not in TrialConfig().to_dict()


@pytest.mark.parametrize("path", LEAVES)
def test_any_changed_leaf_survives_json(path: str) -> None:
    assert TrialConfig.from_json(changed(path).to_json()) == changed(path)


def test_a_fingerprint_is_the_same_for_equal_configs() -> None:
    assert TrialConfig().override({"ipc": 10}).fingerprint() == TrialConfig().fingerprint()
    assert TrialConfig.from_json(FULL.to_json()).fingerprint() == FULL.fingerprint()


def test_data_of_known_content_is_named_by_it_wherever_it_lies() -> None:
    known = [
        TrialConfig(data=DataConfig(path=path, sha256="ab")).fingerprint() for path in ("/a", "/b")
    ]
    unknown = [TrialConfig(data=DataConfig(path=path)).fingerprint() for path in ("/a", "/b")]
    other = TrialConfig(data=DataConfig(path="/a", sha256="cd")).fingerprint()
    assert known[0] == known[1]
    assert len({known[0], *unknown, other}) == 4


def sections(cls: type[Config]) -> set[type[Config]]:
    inner = (section_of(hint) for hint in type_hints(cls).values() if is_section(hint))
    return {cls}.union(*map(sections, inner))


def is_section(hint: Any) -> bool:
    options = get_args(hint) or (hint,)
    return any(isinstance(o, type) and issubclass(o, Config) for o in options)


SETTINGS = [(cls, name) for cls in sections(TrialConfig) for name in cls.NAMED]
SETTINGS.sort(key=lambda setting: (setting[0].__name__, setting[1]))


@pytest.mark.parametrize(
    ("cls", "name"), SETTINGS, ids=[f"{cls.__name__}-{name}" for cls, name in SETTINGS]
)
def test_every_named_setting_is_valid(cls: type[Config], name: str) -> None:
    section = cls.named(name)
    for path, value in cls.NAMED[name].items():
        given = value if isinstance(value, dict) else {"": value}
        for rest, expected in given.items():
            made = section.flat()[f"{path}.{rest}".rstrip(".")]
            assert made == (list(expected) if isinstance(expected, tuple) else expected)


def test_the_named_settings_are_found() -> None:
    assert {cls.__name__ for cls, _ in SETTINGS} >= {
        "RegularizerConfig",
        "SRe2L",
        "CDA",
        "MTT",
        "StudentConfig",
        "EvaluationConfig",
    }


def test_the_control_differs_in_the_regularizer_only() -> None:
    config = FULL.override({"ipc": 3, "regularizer": "cure"})
    control = config.unregularized()
    assert not control.regularizer.active
    assert dataclasses.replace(control, regularizer=config.regularizer) == config
