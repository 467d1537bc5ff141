"""What every stage keeps to: a frozen dataclass that says all that its result depends on."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import json
import math
import pickle
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_type_hints

import pytest

import guard
from guard.config import ComputeConfig, DataConfig, ModelConfig
from guard.config.schema import Config, field_names, later
from guard.stage import Sizes, Stage, closure, input_fields, waves
from guard.stages import Loaded
from guard.trial import TrialConfig, methods
from guard.trial_stages import STAGES, TrialStages, landscapes, plan
from helpers import run_python

for module in pkgutil.walk_packages(guard.__path__, "guard."):
    importlib.import_module(module.name)


def kinds(base: type[Stage] = Stage) -> Iterator[type[Stage]]:
    """Every class of stages in the package that can be made."""
    for kind in base.__subclasses__():
        if dataclasses.is_dataclass(kind) and kind.__module__.startswith("guard."):
            yield kind
        yield from kinds(kind)


KINDS = sorted(set(kinds()), key=lambda kind: kind.__name__)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def configs() -> list[TrialConfig]:
    """A trial of every method, with and without whitening and soft labels."""
    base = TrialConfig().override({"regularizer": "none", "ipc": 2, "sre2l.chunk": 1})
    base = base.override({"evaluation.attacks": ["pgd2", "cw", "mim"]})
    few = {
        f"{name}.experts.count": 3
        for name, method in methods().items()
        if "experts" in field_names(method)
    }
    committee = {"labels.teachers": ["own", "pgd-at"], "labels.epoch": 3}
    variants = [
        {},
        {"model.input": "zca"},
        {"student.labels": "soft", "labels.bn": "batch", "student.regularizer": "pgd-at"},
        {"student.labels": "budget", "student.train.augment": ["dsa"], **committee},
    ]
    every = [
        base.override({"method": name, **few, **variant})
        for name in methods()
        for variant in variants
    ]
    return [
        *every,
        base.override({"sre2l.bn_statistics": "class", "sre2l.patches": {"budget": 12}}),
    ]


def stages_of(config: TrialConfig) -> list[Stage]:
    """All that a trial may be asked for."""
    looks = [look[-1] for look in TrialStages.of(config).rungs]
    return [*plan(config), *closure(*looks), *landscapes(config).values()]


PLANNED = {stage.address: stage for config in configs() for stage in stages_of(config)}
FROM_OTHERS = {"path": "somewhere", "sha256": "ab" * 32, "data": DataConfig()}
LOADED = Loaded(model=ModelConfig(), compute=ComputeConfig(), **FROM_OTHERS)
PLANNED[LOADED.address] = LOADED
ONE_EACH = {type(stage): stage for stage in PLANNED.values()}


def planned(kind: type[Stage]) -> list[Stage]:
    return [stage for stage in PLANNED.values() if type(stage) is kind]


def test_every_kind_of_stage_is_in_the_table_by_its_name() -> None:
    assert set(STAGES.values()) == set(KINDS) == set(ONE_EACH)
    assert all(kind.name == name for name, kind in STAGES.items())
    assert len(KINDS) == len(STAGES) > 8


@each_kind
def test_a_kind_has_a_name_and_a_version_and_no_fields_of_these_names(kind: type[Stage]) -> None:
    assert isinstance(kind.name, str) and kind.version >= 1
    assert not {"name", "version", "work"} & set(field_names(kind))
    assert "compute" in field_names(kind)


@each_kind
def test_the_work_of_a_stage_is_a_function_of_it(kind: type[Stage]) -> None:
    module, _, function = kind.work.partition(":")
    work = getattr(importlib.import_module(module), function)
    assert inspect.isfunction(work) and work.__module__ == module
    hints = get_type_hints(work)
    first, store, folder = inspect.signature(work).parameters
    assert hints[first] is kind
    assert (hints[store].__name__, hints[folder].__name__) == ("ArtifactStore", "Path")


@each_kind
def test_a_stage_is_frozen_and_made_by_keywords(kind: type[Stage]) -> None:
    stage = ONE_EACH[kind]
    parameters: Any = kind.__dict__["__dataclass_params__"]
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(stage))  # type: ignore[arg-type]
    for name in field_names(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stage, name, None)


@each_kind
def test_equal_stages_are_one_in_a_set(kind: type[Stage]) -> None:
    stage = ONE_EACH[kind]
    again = pickle.loads(pickle.dumps(stage))
    copied = copy.deepcopy(stage)
    assert again is not stage and stage == again == copied
    assert {stage, again, copied} == {stage}
    assert again.key == stage.key and type(again) is kind
    other = replace(stage, compute=ComputeConfig(num_threads=99))  # type: ignore[type-var]
    assert other != stage and other.key != stage.key
    assert len({stage, other}) == 2


@each_kind
def test_config_and_inputs_are_the_fields_each_once(kind: type[Stage]) -> None:
    inputs = set(input_fields(kind))
    for stage in planned(kind):
        silent = {name for name, value in later(kind).items() if getattr(stage, name) == value}
        assert set(stage.config) | inputs | silent == set(field_names(kind))
        assert not set(stage.config) & silent
        assert not set(stage.config) & inputs
        given: list[Stage] = []
        for name in field_names(kind):
            value = getattr(stage, name)
            if name in inputs and value is not None:
                given += value if isinstance(value, tuple) else [value]
        assert all(isinstance(needed, Stage) for needed in given)
        addresses = sorted(needed.address for needed in given)
        assert sorted(needed.address for needed in stage.inputs.values()) == addresses
        for name, plain in stage.config.items():
            value = "" if kind is Loaded and name == "path" else getattr(stage, name)
            assert plain == (value.to_dict() if isinstance(value, Config) else value)


@each_kind
def test_a_description_is_plain_and_an_address_is_name_and_key(kind: type[Stage]) -> None:
    for stage in planned(kind):
        described = stage.description
        assert json.loads(json.dumps(described)) == described
        assert list(described) == ["name", "version", "config", "inputs"]
        assert described["inputs"] == {role: made.address for role, made in stage.inputs.items()}
        assert stage.address == f"{stage.name}/{stage.key}" and len(stage.key) == 32


def test_a_stage_says_the_same_in_every_process() -> None:
    """Word for word: its description is a part of the files that are kept."""
    code = """
import json
from guard.trial_stages import landscapes, plan
from guard.trial import TrialConfig
config = TrialConfig().override({"model.input": "zca", "sre2l.chunk": 10})
stages = [*plan(config), *landscapes(config).values()]
print(json.dumps([[stage.key, stage.description] for stage in stages]))
"""
    runs = [run_python(code, PYTHONHASHSEED=str(seed)) for seed in range(4)]
    assert all(done.returncode == 0 for done in runs), runs[0].stderr
    rows = [json.loads(done.stdout) for done in runs]
    assert all(row == rows[0] for row in rows), "but for the order of fields"
    assert len({done.stdout for done in runs}) == 1


@pytest.mark.parametrize("stage", ONE_EACH.values(), ids=lambda stage: stage.name)
def test_what_a_stage_costs_grows_with_the_data(stage: Stage) -> None:
    small, large = (
        stage.passes(
            Sizes(train=1000 * n, splits={"validation": 100 * n, "test": 200 * n}, num_classes=10)
        )
        for n in (1, 2)
    )
    assert 0 <= small <= large < math.inf
    assert (small > 0) is (type(stage).passes is not Stage.passes)


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.fingerprint())
def test_a_closure_has_inputs_first_and_each_once(config: TrialConfig) -> None:
    student = TrialStages.of(config).student
    found = list(closure(student))
    seen: set[str] = set()
    for stage in found:
        assert {needed.address for needed in stage.inputs.values()} <= seen
        assert stage.address not in seen
        seen.add(stage.address)
    assert found[-1] == student
    everything = list(closure(*plan(config), student))
    assert {s.address for s in everything} == {s.address for s in plan(config)}
    assert len(everything) == len(plan(config))
    needed = {made.address for stage in found for made in stage.inputs.values()}
    assert needed == seen - {student.address}, "nothing that nobody asked for"


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.fingerprint())
def test_a_stage_is_in_the_wave_right_after_its_last_input(config: TrialConfig) -> None:
    found = waves(*plan(config))
    level = {stage.address: n for n, wave in enumerate(found) for stage in wave}
    assert all(found) and sum(map(len, found)) == len(level) == len(plan(config))
    for stage in plan(config):
        after = [level[needed.address] for needed in stage.inputs.values()]
        assert level[stage.address] == max(after, default=-1) + 1
    assert TrialStages.of(config).waves == found


def test_a_trial_is_planned_and_pickled_without_torch() -> None:
    code = """
import pickle, sys
from guard.trial_stages import landscapes, plan
from guard.trial import TrialConfig, methods
for name in methods():
    config = TrialConfig().override({"method": name, "regularizer": "none"})
    stages = [*plan(config), *landscapes(config).values()]
    again, same = pickle.loads(pickle.dumps((stages, config)))
    assert again == stages and same == config
    assert [stage.key for stage in again] == [stage.key for stage in stages]
assert not {"torch", "numpy", "torchvision", "torchattacks"} & set(sys.modules)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
