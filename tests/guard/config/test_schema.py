"""What a config is: plain values under paths, overridden, read again, and known by a digest."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
from dataclasses import dataclass, field

import pytest
from nested import CHANGED, Inner, Outer

from guard.config.schema import LATER, Config, digest, is_list, paths
from guard.trial import TrialConfig


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


def test_a_config_is_frozen_and_hashable() -> None:
    config = Outer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "z"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.inner.width = 3
    assert hash(CHANGED) == hash(Outer.from_dict(CHANGED.to_dict()))


def test_lists_become_tuples() -> None:
    assert Outer(tags=["a"]).tags == ("a",)


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
