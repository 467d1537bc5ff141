"""Which values a config refuses, and in which words."""

from __future__ import annotations

import math
from typing import Any

import pytest
from nested import Outer

from guard.config.rules import Bounds, above, at_least
from guard.errors import ConfigError


@pytest.mark.parametrize("section", [3, [1], True])
def test_what_is_no_section_is_refused_beside_a_field_of_it_too(section: object) -> None:
    with pytest.raises(ConfigError, match=r"^inner: must be an object with fields, got ") as caught:
        Outer().override({"inner": section, "inner.width": 2})
    assert repr(section) in str(caught.value)


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
