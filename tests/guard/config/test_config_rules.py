"""Which values a trial's config takes, alone and beside others, and which it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from guard.config import ModelConfig, RegularizerConfig, TrainConfig
from guard.errors import ConfigError
from guard.trial import TrialConfig


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
