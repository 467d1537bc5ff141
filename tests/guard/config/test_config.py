from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from guard.config import DataConfig, ModelConfig, RegularizerConfig, TrainConfig
from guard.config.rules import OneOf
from guard.config.schema import Config, later, type_hints
from guard.errors import ConfigError
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


def test_the_students_model_is_the_teachers_unless_it_is_given() -> None:
    config = TrialConfig(model=ModelConfig(width=7))
    assert config.student_model == ModelConfig(width=7)
    own = config.override({"student.model.width": 9})
    assert own.student.model == ModelConfig(width=9)
    assert own.student_model == ModelConfig(width=9)
    assert own.model == ModelConfig(width=7)


def test_a_named_setting_replaces_the_whole_section_before_its_fields() -> None:
    config = TrialConfig().override({"regularizer.weight": 7, "regularizer": "cure"})
    expected = RegularizerConfig(
        weight=7,
        h=3,
        units="normalized",
        power=1,
        direction="sign",
        h_ramp=(0.1, 0.4, 0.8, 1.8),
    )
    assert config.regularizer == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [("student.train.epochs", 3), ("student.model.width", 4), ("student.mix", "mixup")],
)
def test_a_section_and_a_path_inside_it_may_come_together(path: str, value: Any) -> None:
    together = TrialConfig().override({"student": {"seed": 1}, path: value})
    in_turn = TrialConfig().override({"student": {"seed": 1}}).override({path: value})
    assert together == in_turn
    assert together.student.seed == 1 and together.flat()[path] == value
    assert together.student.train.optimizer == "adamw"


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


@pytest.mark.parametrize(
    ("values", "active"),
    [
        ({}, True),
        ({"kind": "none"}, False),
        ({"weight": 0}, False),
        ({"kind": "adversarial", "weight": 0}, True),
        ({"kind": "trades", "weight": 0}, False),
        ({"kind": "gradient-norm", "weight": 1e-9}, True),
    ],
)
def test_a_regularizer_is_active_with_a_kind_and_a_weight(
    values: dict[str, Any], active: bool
) -> None:
    assert RegularizerConfig(**values).active is active


@pytest.mark.parametrize(
    ("model", "has_batchnorm"),
    [
        ({"name": "convnet"}, False),
        ({"name": "convnet", "norm": "group"}, False),
        ({"name": "convnet", "norm": "batch"}, True),
        ({"name": "bn-convnet"}, True),
        ({"name": "resnet18"}, True),
    ],
)
def test_sre2l_needs_batch_norm(model: dict[str, Any], has_batchnorm: bool) -> None:
    assert ModelConfig(**model).has_batchnorm is has_batchnorm
    if has_batchnorm:
        assert TrialConfig(model=model).model.name == model["name"]
        return
    with pytest.raises(ConfigError, match=r"^model\.norm: sre2l .*needs 'batch', got ") as caught:
        TrialConfig().override({"model": model})
    assert repr(model.get("norm", "instance")) in str(caught.value)


@pytest.mark.parametrize("order", [("model.name", "model.norm"), ("model.norm", "model.name")])
def test_an_override_is_judged_as_a_whole(order: tuple[str, ...]) -> None:
    values = {"model.name": "convnet", "model.norm": "batch"}
    config = TrialConfig().override({path: values[path] for path in order})
    assert config.model == ModelConfig(name="convnet", norm="batch")


def test_a_student_needs_no_batch_norm() -> None:
    config = TrialConfig().override({"student.model": {"name": "convnet"}})
    assert not config.student_model.has_batchnorm


def test_warmup_must_end_before_the_run() -> None:
    assert TrainConfig(epochs=5, warmup_epochs=4).warmup_epochs == 4
    with pytest.raises(ConfigError, match=r"^squeeze\.warmup_epochs: must be below epochs = 20"):
        TrialConfig().override({"squeeze.warmup_epochs": 20})


def test_every_process_has_an_image_of_a_batch() -> None:
    config = TrialConfig().override({"squeeze.processes": 8, "squeeze.batch_size": 8})
    assert config.squeeze.processes == 8
    with pytest.raises(ConfigError, match=r"^squeeze\.processes: .*at most batch_size = 4, got 8"):
        config.override({"squeeze.batch_size": 4})


def test_one_process_alone_runs_on_mps() -> None:
    config = TrialConfig().override({"compute.device": "mps"})
    with pytest.raises(ConfigError, match=r"^squeeze\.processes: must be 1 on mps, got 2"):
        config.override({"squeeze.processes": 2})


def test_longer_warmup_and_longer_training_may_come_in_either_order() -> None:
    values = {"squeeze.warmup_epochs": 30, "squeeze.epochs": 50}
    train = TrialConfig().override(values).squeeze
    assert (train.warmup_epochs, train.epochs) == (30, 50)


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("data.name", "mnist", "must be one of digits"),
        ("data.validation_fraction", 0, "greater than 0 and at most 0.9"),
        ("data.validation_fraction", 0.95, "greater than 0 and at most 0.9"),
        ("data.image_size", -1, "at least 0"),
        ("model.name", "vgg11", "must be one of convnet, bn-convnet, resnet18, torchvision:NAME"),
        ("student.model.stem", "16", "must be one of auto, 32, 64, 224, tiny-224"),
        ("regularizer.weight", -0.1, "at least 0"),
        ("regularizer.h", 0, "greater than 0"),
        ("regularizer.power", 3, "at least 1 and at most 2"),
        ("regularizer.fraction", 0, "greater than 0 and at most 1"),
        ("squeeze.lr", float("nan"), "finite number"),
        ("squeeze.augment", ["rotate"], "must be one of crop, flip, resized-crop, dsa, shuffle"),
        ("student.train.epochs", 0, "at least 1"),
        ("sre2l.chunk", 0, "at least 1"),
        ("ipc", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("evaluation.eps", 1.5, "at most 1 in L_inf"),
        ("evaluation.eps", -0.5, "at least 0"),
        ("evaluation.norm", "L1", "must be one of Linf, L2"),
        ("evaluation.splits", ["train"], "must be one of validation, test"),
        ("evaluation.batch_size", 0, "at least 1"),
        ("evaluation.max_samples", 0, "at least 1"),
        ("method", "gan", "must be one of sre2l, cda, dc, dsa, mtt, tesla, mat, random, herding"),
        ("compute.device", "tpu", "must be one of cpu, cuda, mps"),
    ],
)
def test_a_trial_refuses_bad_values(path: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override({path: value})
    assert caught.value.path == path
    assert rule in str(caught.value)
    shown = value[0] if isinstance(value, list) else value
    assert str(shown) in str(caught.value)
