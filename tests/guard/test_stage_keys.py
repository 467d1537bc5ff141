"""What a stage's key depends on: its name, its version, its config and its inputs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from guard.config import DataConfig
from guard.stage import Stage, closure, waves


@dataclass(frozen=True, kw_only=True)
class Model(Stage):
    """An input."""

    name, version, work = "model", 1, "nowhere:nothing"
    number: int


@dataclass(frozen=True, kw_only=True)
class Count(Stage):
    """Of no kind that there is."""

    name, version, work = "count", 1, "nowhere:nothing"
    model: Model | None
    a: int = 1
    b: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Wider(Count):
    """With one field more."""

    c: int | None = None


@dataclass(frozen=True, kw_only=True)
class Taught(Stage):
    """The same input in another role."""

    name, version, work = "count", 1, "nowhere:nothing"
    teacher: Model
    a: int = 1
    b: tuple[int, ...] = (1, 2)


class Renamed(Count):
    """The same fields under another name."""

    name = "other"


class Raised(Count):
    """The same fields in another version."""

    version = 2


class Elsewhere(Count):
    """The same stage, whose work has moved."""

    work = "somewhere:else"


MODEL = Model(number=0)
STAGE = Count(model=MODEL)


@pytest.mark.parametrize(
    "other",
    [
        Renamed(model=MODEL),
        Raised(model=MODEL),
        Count(model=MODEL, a=2),
        Count(model=MODEL, b=(2, 1)),
        Wider(model=MODEL),
        Count(model=Model(number=1)),
        Taught(teacher=MODEL),
        Count(model=None),
    ],
)
def test_a_key_depends_on_name_version_config_and_inputs(other: Stage) -> None:
    assert other.key != STAGE.key


def test_a_key_does_not_depend_on_where_the_work_is_or_on_the_order_of_fields() -> None:
    assert Elsewhere(model=MODEL).key == STAGE.key
    assert Count(b=(1, 2), a=1, model=MODEL).key == STAGE.key
    assert STAGE.address == f"count/{STAGE.key}"


def test_no_input_has_no_role() -> None:
    assert STAGE.inputs == {"model": MODEL}
    assert Count(model=None).inputs == {}
    assert STAGE.config == Count(model=None).config == {"a": 1, "b": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class Several(Stage):
    """With inputs in a tuple."""

    name, version, work = "several", 1, "nowhere:nothing"
    models: tuple[Model, ...]
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


def test_inputs_in_a_tuple_are_numbered_in_order() -> None:
    first, second = Model(number=3), Model(number=1)
    stage = Several(models=(first, second))
    assert list(stage.inputs.items()) == [("model-0000", first), ("model-0001", second)]
    assert stage.key != Several(models=(second, first)).key
    assert list(closure(stage, first)) == [first, second, stage]
    assert waves(stage) == [[first, second], [stage]]


def reading(path: str, sha256: str = "", **config: Any) -> Several:
    return Several(models=(), data=DataConfig(path=path, sha256=sha256, **config))


def test_data_of_known_content_is_named_by_it_wherever_it_lies() -> None:
    here, there = reading("/here", "ab"), reading("/there", "ab")
    assert here.key == there.key
    assert here.config["data"]["path"] == ""
    assert (here.data.path, there.data.path) == ("/here", "/there")
    assert reading("/here", "cd").key != here.key
    assert reading("/here", "ab", split_seed=1).key != here.key


def test_data_of_unknown_content_is_named_by_its_path() -> None:
    here, there = reading("/here"), reading("/there")
    assert here.key != there.key
    assert here.config["data"]["path"] == here.data.path == "/here"
