from __future__ import annotations

import copy
import dataclasses
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest

from guard.config.rules import Bounds, above, at_least
from guard.config.schema import LATER, Config, digest, is_list, paths
from guard.errors import ConfigError
from guard.trial import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    width: Annotated[int, at_least(1)] = 2
    share: Annotated[float, above(0, at_most=1)] = 0.5
    kind: Literal["round", "square"] = "round"
    low: float = 0.0
    high: float = 1.0

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {"wide": {"width": 9, "kind": "square"}}

    def check(self) -> None:
        if self.low > self.high:
            raise ConfigError("low", f"must be at most high = {self.high}, got {self.low}")


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    name: str = "x"
    flag: bool = False
    tags: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    limit: Annotated[int, at_least(1)] | None = None
    inner: Inner = field(default_factory=Inner)
    extra: Inner | None = None


CHANGED = Outer(
    name="y",
    flag=True,
    tags=("a", "b"),
    sizes=(3,),
    limit=7,
    inner=Inner(width=5, share=0.25, kind="square", low=-1.5),
    extra=Inner(width=4),
)


@pytest.mark.parametrize("config", [Outer(), CHANGED])
def test_a_config_survives_a_dict_and_json(config: Outer) -> None:
    assert Outer.from_dict(config.to_dict()) == config
    assert Outer.from_json(config.to_json()) == config
    assert json.loads(config.to_json()) == config.to_dict()


def test_a_dict_holds_plain_values_only() -> None:
    assert CHANGED.to_dict()["tags"] == ["a", "b"]
    assert CHANGED.to_dict()["extra"]["width"] == 4
    assert Outer().to_dict()["extra"] is None


def test_missing_fields_take_their_defaults() -> None:
    assert Outer.from_dict({"inner": {"width": 3}}) == Outer(inner=Inner(width=3))


def test_flat_lists_every_leaf_by_its_path() -> None:
    assert Outer(extra=Inner(width=4)).flat() == {
        "name": "x",
        "flag": False,
        "tags": [],
        "sizes": [1, 2],
        "limit": None,
        "inner.width": 2,
        "inner.share": 0.5,
        "inner.kind": "round",
        "inner.low": 0.0,
        "inner.high": 1.0,
        "extra.width": 4,
        "extra.share": 0.5,
        "extra.kind": "round",
        "extra.low": 0.0,
        "extra.high": 1.0,
    }
    assert Outer().flat()["extra"] is None


def test_paths_are_the_sections_and_the_leaves() -> None:
    assert set(paths(Outer)) == set(Outer(extra=Inner()).flat()) | {"inner", "extra"}


def test_override_sets_nested_paths_and_leaves_the_original_alone() -> None:
    config = Outer()
    changed = config.override({"inner.width": 8, "name": "z"})
    assert changed == Outer(name="z", inner=Inner(width=8))
    assert config == Outer()


@pytest.mark.parametrize("section", [{"width": 9, "kind": "square"}, "wide", Inner.named("wide")])
def test_override_takes_a_section_as_dict_name_or_config(section: object) -> None:
    changed = Outer(inner=Inner(share=0.1)).override({"inner": section})
    assert changed.inner == Inner(width=9, kind="square")


@pytest.mark.parametrize("order", [("inner", "inner.width"), ("inner.width", "inner")])
def test_sections_are_set_before_the_fields_inside_them(order: tuple[str, ...]) -> None:
    values = {"inner": "wide", "inner.width": 3}
    changed = Outer().override({path: values[path] for path in order})
    assert changed.inner == Inner(width=3, kind="square")


def test_override_opens_an_optional_section() -> None:
    assert Outer().override({"extra.width": 6}).extra == Inner(width=6)
    assert CHANGED.override({"extra": None}).extra is None
    assert CHANGED.override({"extra.share": 1}).extra == Inner(width=4, share=1.0)


def test_override_leaves_the_values_it_is_given_alone() -> None:
    values = {"inner": {"width": 3}, "inner.share": 0.25, "extra": {}, "extra.width": 4}
    given = copy.deepcopy(values)
    changed = Outer().override(values)
    assert (changed.inner, changed.extra) == (Inner(width=3, share=0.25), Inner(width=4))
    assert values == given


@pytest.mark.parametrize("section", [3, [1], True])
def test_what_is_no_section_is_refused_beside_a_field_of_it_too(section: object) -> None:
    with pytest.raises(ConfigError, match=r"^inner: must be an object with fields, got ") as caught:
        Outer().override({"inner": section, "inner.width": 2})
    assert repr(section) in str(caught.value)


def test_override_takes_any_mapping_as_a_section() -> None:
    section = types.MappingProxyType({"width": 3})
    assert Outer().override({"inner": section}).inner == Inner(width=3)
    changed = Outer().override({"inner": section, "inner.share": 0.25})
    assert changed.inner == Inner(width=3, share=0.25)


@pytest.mark.parametrize("order", [("inner.low", "inner.high"), ("inner.high", "inner.low")])
def test_rules_over_several_fields_judge_the_whole_override(order: tuple[str, ...]) -> None:
    values = {"inner.low": 5, "inner.high": 6}
    changed = Outer().override({path: values[path] for path in order})
    assert (changed.inner.low, changed.inner.high) == (5.0, 6.0)


def test_whole_numbers_may_be_written_as_floats_and_floats_as_whole_numbers() -> None:
    inner = Inner(width=3.0, share=1)
    assert (inner.width, type(inner.width)) == (3, int)
    assert (inner.share, type(inner.share)) == (1.0, float)


BAD_VALUES = [
    ("inner.width", 0, "at least 1", "0"),
    ("inner.width", 2.5, "whole number", "2.5"),
    ("inner.width", True, "whole number", "True"),
    ("inner.width", "3", "whole number", "'3'"),
    ("inner.width", None, "whole number", "None"),
    ("inner.width", math.inf, "whole number", "inf"),
    ("inner.share", 0, "greater than 0", "0.0"),
    ("inner.share", 1.5, "at most 1", "1.5"),
    ("inner.share", math.nan, "finite number", "nan"),
    ("inner.share", math.inf, "finite number", "inf"),
    ("inner.share", [1], "finite number", "[1]"),
    ("inner.share", False, "finite number", "False"),
    ("inner.kind", "oval", "one of round, square", "'oval'"),
    ("inner.kind", ["round"], "one of round, square", "['round']"),
    ("inner.low", 2, "at most high = 1.0", "2.0"),
    ("inner", 3, "object with fields", "3"),
    ("inner", None, "object with fields", "None"),
    ("inner", [1], "object with fields", "[1]"),
    ("inner", "narrow", "no setting is named", "'narrow'"),
    ("name", 3, "text", "3"),
    ("flag", 1, "true or false", "1"),
    ("flag", "yes", "true or false", "'yes'"),
    ("tags", "a", "a list", "'a'"),
    ("tags", [1], "text", "1"),
    ("sizes", [1, 2.5], "whole number", "2.5"),
    ("limit", 0, "at least 1", "0"),
    ("limit", "many", "whole number", "'many'"),
    ("extra.width", -1, "at least 1", "-1"),
]


@pytest.mark.parametrize(("path", "value", "rule", "shown"), BAD_VALUES)
def test_a_bad_value_is_refused_by_path_rule_and_value(
    path: str, value: object, rule: str, shown: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer().override({path: value})
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert rule in str(caught.value)
    assert shown in str(caught.value)


@pytest.mark.parametrize(("path", "value", "rule", "shown"), BAD_VALUES)
def test_reading_a_dict_refuses_what_override_refuses(
    path: str, value: object, rule: str, shown: str
) -> None:
    *sections, name = path.split(".")
    values: Any = {name: value}
    for section in reversed(sections):
        values = {section: values}
    with pytest.raises(ConfigError) as caught:
        Outer.from_dict(values)
    assert caught.value.path == path
    assert rule in str(caught.value) and shown in str(caught.value)


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["huge", "minus-huge"])
@pytest.mark.parametrize("path", ["inner.share", "inner.width"])
def test_a_number_too_large_for_a_float_is_no_crash(path: str, value: int) -> None:
    try:
        config = Outer().override({path: value})
    except ConfigError as error:
        assert error.path == path
    else:
        assert config.flat()[path] == value


@pytest.mark.parametrize(
    ("path", "shown_path", "names"),
    [
        ("nmae", "nmae", "name, flag, tags, sizes, limit, inner, extra"),
        ("inner.widht", "inner.widht", "width, share, kind, low, high"),
        ("extra.widht", "extra.widht", "width, share, kind, low, high"),
        ("inre.width", "inre", "name, flag, tags, sizes, limit, inner, extra"),
    ],
)
def test_an_unknown_field_is_answered_with_those_that_exist(
    path: str, shown_path: str, names: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer().override({path: 1})
    assert caught.value.path == shown_path
    assert "no such field" in str(caught.value)
    assert f"there are: {names}" in str(caught.value)


def test_an_unknown_field_suggests_the_close_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        Outer().override({"inner.widht": 1})
    with pytest.raises(ConfigError, match="did you mean 'wide'"):
        Outer().override({"inner": "wiide"})


@pytest.mark.parametrize("values", [{"inner": {"colour": 1}}, {"colour": 1}])
def test_an_unknown_field_in_a_dict_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"colour: no such field.*there are: "):
        Outer.from_dict(values)


def test_a_path_through_a_leaf_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^inner\.width: has no fields"):
        Outer().override({"inner.width.deep": 1})


def test_a_config_is_frozen_and_hashable() -> None:
    config = Outer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "z"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.inner.width = 3
    assert hash(CHANGED) == hash(Outer.from_dict(CHANGED.to_dict()))


def test_lists_become_tuples() -> None:
    assert Outer(tags=["a"]).tags == ("a",)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (at_least(1), [1, 5], [0, -3], "at least 1"),
        (at_least(0, at_most=1), [0, 1], [-0.1, 1.1], "at least 0 and at most 1"),
        (above(0), [0.1, 9], [0, -1], "greater than 0"),
        (above(0, at_most=2), [2], [0, 2.1], "greater than 0 and at most 2"),
    ],
)
def test_bounds(bounds: Bounds, inside: list[float], outside: list[float], text: str) -> None:
    assert str(bounds) == text
    for value in inside:
        bounds.check(value)
    for value in outside:
        with pytest.raises(ConfigError, match=f"must be {text}, got {value}"):
            bounds.check(value)


def test_a_digest_ignores_the_order_of_keys_but_not_of_lists() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert digest(1) != digest("1")


def test_a_fingerprint_is_the_start_of_the_digest_of_the_dict() -> None:
    assert CHANGED.fingerprint() == digest(CHANGED.to_dict())[:16]
    assert len(CHANGED.fingerprint()) == 16


@dataclass(frozen=True, kw_only=True)
class Grown(Config):
    """Inner, with a field that came later."""

    width: int = 2
    share: float = field(default=1.0, metadata=LATER)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("student.train.augment", True),
        ("sre2l.committee.teachers", True),
        ("regularizer.h_ramp", True),
        ("student.train", False),
        ("student.train.lr", False),
        ("sre2l.committee", False),
        ("student.train.lr.x", False),
        ("nothing.here", False),
    ],
)
def test_lists_are_told_by_their_type(path: str, expected: bool) -> None:
    assert is_list(TrialConfig, path) is expected


def test_a_later_field_says_nothing_at_its_default() -> None:
    assert Grown(share=1).to_dict() == {"width": 2}
    assert Grown(share=0.5).to_dict() == {"width": 2, "share": 0.5}
    assert Grown.from_dict({"width": 3}) == Grown(width=3)
    assert Grown().override({"share": 0.25}).share == 0.25
    assert Grown(share=0.5).override({"share": 1}) == Grown()
    assert Grown().flat() == {"width": 2, "share": 1.0}
    assert Grown().stated() == {"width": 2}
    assert Grown(share=0.5).stated() == Grown(share=0.5).flat()
    assert Grown().fingerprint() != Grown(share=0.5).fingerprint()
