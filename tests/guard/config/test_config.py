from __future__ import annotations

import dataclasses
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from guard.config import DataConfig, EvaluationConfig, ModelConfig, RegularizerConfig, TrainConfig
from guard.config.evaluation import (
    AUTOATTACK,
    LINF_ONLY,
    PASSES,
    SUITES,
    UNBOUNDED,
    expanded,
    parts_of,
    passes_of,
    reported,
    steps_of,
)
from guard.config.schema import Config, type_hints
from guard.errors import ConfigError
from guard.trial import TrialConfig

ADVERSARY = {"kind": "trades", "power": 1, "eps": 0.1}
FULL = TrialConfig().override(
    {
        "student.model": {},
        "model.norm": "batch",
        "method": "mtt",
        "regularizer.power": 1,
        "regularizer.eps": 0.1,
        "sre2l.crop": "batch",
        "cda.curriculum": "none",
        **{f"{name}.gradient": "tesla" for name in ("mtt", "tesla", "mat")},
        **{f"{name}.experts.adversary": ADVERSARY for name in ("mtt", "tesla", "mat")},
        **{f"{name}.model": {} for name in ("dc", "dsa", "mtt", "tesla", "mat")},
    }
)
"""A trial in which every leaf may take another value."""


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
        return another(arguments[0], value)
    if origin is Literal:
        return next(option for option in arguments if option != value)
    if origin in (Union, types.UnionType):
        return 5 if value is None else another(arguments[0], value)
    if origin is tuple:
        return another_list(arguments[0], value)
    changes = {bool: lambda: not value, int: lambda: value + 1, float: lambda: value * 0.5 + 0.01}
    return changes[hint]() if hint in changes else value + "x"


def another_list(item: Any, value: list[Any]) -> list[Any]:
    if get_origin(item) is Literal:
        return next([option] for option in get_args(item) if [option] != value)
    return ["mim"] if item is str else [0.3]


def changed(path: str, base: TrialConfig = FULL) -> TrialConfig:
    return base.override({path: another(leaf_hint(path), base.flat()[path])})


def test_a_trial_survives_json() -> None:
    assert TrialConfig.from_json(FULL.to_json()) == FULL
    assert TrialConfig.from_dict(TrialConfig().to_dict()) == TrialConfig()


@pytest.mark.parametrize("path", sorted(FULL.flat()))
def test_a_fingerprint_changes_with_any_leaf(path: str) -> None:
    assert changed(path).flat()[path] != FULL.flat()[path]
    assert changed(path).fingerprint() != FULL.fingerprint()


@pytest.mark.parametrize("path", sorted(FULL.flat()))
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
        weight=7, h=3, units="normalized", power=1, direction="sign", h_warmup_epochs=5
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
    assert {cls.__name__ for cls, _ in SETTINGS} == {
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


def test_longer_warmup_and_longer_training_may_come_in_either_order() -> None:
    values = {"squeeze.warmup_epochs": 30, "squeeze.epochs": 50}
    train = TrialConfig().override(values).squeeze
    assert (train.warmup_epochs, train.epochs) == (30, 50)


@pytest.mark.parametrize("name", ["pgd1", "margin20", "square300", *PASSES, *SUITES])
def test_attack_names(name: str) -> None:
    assert EvaluationConfig(attacks=(name,)).attacks == (name,)
    assert len(expanded((name,))) >= 1


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *(("pgd1", 1), ("pgd20", 20), ("margin7", 7), ("square300", 300)),
        *(("pgd", None), ("pgd0", None), ("square", None), ("mim", None), ("autoattack", None)),
    ],
)
def test_the_steps_are_in_the_name(name: str, steps: int | None) -> None:
    assert steps_of(name) == steps


@pytest.mark.parametrize(
    "name",
    [
        *("", "pgd", "pgd0", "pgd-1", "pgd1.5", "PGD20", "pgd²", "pgd 2", "pgd20x"),
        *("margin", "margin0", "square0", "bim", "cw2", "20", "apgd", "fab"),
    ],
)
def test_no_attack_names(name: str) -> None:
    assert steps_of(name) is None
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override({"evaluation.attacks": ["pgd20", name]})
    assert caught.value.path == "evaluation.attacks[1]"
    assert repr(name) in str(caught.value)
    known = str(caught.value).split("there are: ")[1].split(", ")
    assert known == ["pgd<steps>", "margin<steps>", "square<queries>", *PASSES, *SUITES]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("attacks", [], "at least one"),
        ("attacks", ["mim", "mim"], "distinct, got mim, mim"),
        ("splits", [], "at least one"),
        ("splits", ["test", "test"], "distinct, got test, test"),
    ],
)
def test_an_evaluation_names_distinct_attacks_and_splits(
    field: str, value: list[str], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluation\.{field}: must .*{rule}"):
        TrialConfig().override({f"evaluation.{field}": value})


@pytest.mark.parametrize("name", [*LINF_ONLY, "paper"])
def test_attacks_in_l_inf_are_refused_in_l2(name: str) -> None:
    unfit = "mim" if name == "paper" else name
    with pytest.raises(
        ConfigError, match=rf"^attacks: {unfit} attack in L_inf, got norm L2$"
    ) as caught:
        EvaluationConfig(norm="L2", attacks=("pgd20", name))
    assert caught.value.path == "attacks"
    assert EvaluationConfig(attacks=("pgd20", name)).norm == "Linf"


def test_every_attack_in_l_inf_is_named_that_is_refused_in_l2() -> None:
    with pytest.raises(ConfigError, match=r"^attacks: fgsm, mim attack in L_inf"):
        EvaluationConfig(norm="L2", attacks=("mim", "pgd5", "fgsm"))


def test_other_attacks_take_either_norm() -> None:
    fit = ("pgd20", "margin20", *(name for name in PASSES if name not in LINF_ONLY), "standard")
    for norm in ("Linf", "L2"):
        assert EvaluationConfig(norm=norm, attacks=fit).attacks == fit


@pytest.mark.parametrize("radii", [{"eps": 1.5}, {"more_eps": [0.1, 1.5]}])
def test_a_radius_above_one_is_refused_in_l_inf_only(radii: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^eps: must be at most 1 in L_inf, got 1\.5$"):
        EvaluationConfig(**radii)
    assert EvaluationConfig(**radii, norm="L2").radii[-1] == 1.5
    assert EvaluationConfig(eps=1).radii == (1.0,)


@pytest.mark.parametrize("field", ["eps", "more_eps"])
def test_a_radius_is_not_negative(field: str) -> None:
    with pytest.raises(ConfigError, match="must be at least 0"):
        EvaluationConfig(**{field: -0.1 if field == "eps" else [-0.1]})


def test_radii_ascend_without_repeats() -> None:
    assert EvaluationConfig(eps=0.1, more_eps=(0.3, 0.05, 0.1)).radii == (0.05, 0.1, 0.3)
    assert EvaluationConfig(eps=0.1).radii == (0.1,)


@pytest.mark.parametrize(
    ("names", "singles"),
    [
        (("search",), ("pgd20",)),
        (("autoattack",), AUTOATTACK),
        (("standard",), AUTOATTACK),
        (("standard", "autoattack", "square", "fab-t"), AUTOATTACK),
        (("autoattack", "pgd20", "fgsm"), ("fgsm", "pgd20", *AUTOATTACK)),
        (("paper",), ("mim", "cw", "apgd-ce", "pgd100", "apgd-t", "fab-t", "square")),
        (("pgd100", "margin5", "pgd5"), ("margin5", "pgd5", "pgd100")),
        (("deepfool", "vmi", "jitter", "cw"), ("jitter", "cw", "vmi", "deepfool")),
        (("square", "square300", "vmi"), ("vmi", "square300", "square")),
    ],
)
def test_suites_are_expanded_from_cheap_to_strong(
    names: tuple[str, ...], singles: tuple[str, ...]
) -> None:
    assert expanded(names) == expanded(tuple(reversed(names))) == singles
    costs = [passes_of(name) for name in singles]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        *(("pgd7", 14), ("margin20", 40), ("square300", 300), ("fgsm", 2), ("cw", 100)),
        *(("mim", 40), ("apgd-ce", 200), ("apgd-t", 1800), ("fab-t", 2700), ("square", 5000)),
    ],
)
def test_an_attack_costs_its_passes(name: str, passes: int) -> None:
    assert passes_of(name) == passes


@pytest.mark.parametrize(
    ("names", "figures"),
    [
        (("pgd20", "mim"), ("pgd20", "mim")),
        (("search",), ("pgd20",)),
        (("standard",), ("autoattack",)),
        (("autoattack", "standard"), ("autoattack",)),
        (("paper", "search", "mim"), ("pgd100", "square", "autoattack", "cw", "mim", "pgd20")),
    ],
)
def test_a_suite_reports_its_members_but_autoattack_is_one(
    names: tuple[str, ...], figures: tuple[str, ...]
) -> None:
    assert reported(names) == figures


def test_an_evaluation_goes_from_small_radii_to_large_and_from_cheap_to_strong() -> None:
    config = EvaluationConfig(eps=0.1, more_eps=(0.2, 0.05), attacks=("cw", "square", "pgd20"))
    assert parts_of(config) == [
        (math.inf, "cw"),
        *((eps, name) for eps in (0.05, 0.1, 0.2) for name in ("pgd20", "square")),
    ]
    free = EvaluationConfig(more_eps=(0.2,), attacks=("deepfool", "cw"))
    assert parts_of(free) == [(math.inf, "cw"), (math.inf, "deepfool")]


def test_the_groups_of_attacks_are_of_attacks() -> None:
    assert {*AUTOATTACK, *LINF_ONLY, *UNBOUNDED} <= set(PASSES)
    assert not set(PASSES) & set(SUITES) - {"autoattack"}
    for members in SUITES.values():
        EvaluationConfig(attacks=members)


@pytest.mark.parametrize("name", sorted(EvaluationConfig.NAMED))
def test_named_evaluations_replace_the_whole_section(name: str) -> None:
    config = TrialConfig().override({"evaluation.seed": 3, "evaluation": name})
    named = EvaluationConfig.named(name)
    assert config.evaluation == dataclasses.replace(named, seed=3)
    assert named.splits == ("validation", "test") and named.norm == "Linf"


def test_guards_evaluation_gives_each_attack_its_own_figure() -> None:
    paper = EvaluationConfig.named("paper")
    assert (paper.eps, paper.radii, paper.cascade) == (1 / 255, (1 / 255,), False)
    assert reported(paper.attacks) == ("pgd100", "square", "autoattack", "cw", "mim")


def test_the_standard_evaluation_is_a_cascade_of_autoattack_at_eight_pixels() -> None:
    standard = EvaluationConfig.named("standard")
    assert standard.radii == (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    assert (standard.eps, standard.cascade) == (8 / 255, True)
    assert expanded(standard.attacks) == AUTOATTACK
    assert EvaluationConfig.named("digits").radii == (0.05, 0.1, 0.2)


@pytest.mark.parametrize("splits", [["test"], ["validation"], ["test", "validation"]])
def test_the_student_is_evaluated_on_chosen_splits(splits: list[str]) -> None:
    config = TrialConfig().override({"evaluation.splits": splits})
    assert config.evaluation.splits == tuple(splits)


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("data.name", "mnist", "must be one of digits"),
        ("data.validation_fraction", 0, "greater than 0 and at most 0.9"),
        ("data.validation_fraction", 0.95, "greater than 0 and at most 0.9"),
        ("data.image_size", -1, "at least 0"),
        ("model.name", "vgg11", "must be one of convnet, bn-convnet, resnet18"),
        ("student.model.stem", "16", "must be one of auto, 32, 64, 224, tiny-224"),
        ("regularizer.weight", -0.1, "at least 0"),
        ("regularizer.h", 0, "greater than 0"),
        ("regularizer.power", 3, "at least 1 and at most 2"),
        ("regularizer.fraction", 0, "greater than 0 and at most 1"),
        ("squeeze.lr", float("nan"), "finite number"),
        ("squeeze.augment", ["rotate"], "must be one of crop, flip, resized-crop, dsa"),
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


@pytest.mark.parametrize("side", [4, 12, 14, 18, 19, 24])
def test_square_in_l2_is_refused_where_its_tiles_do_not_fit(side: int) -> None:
    config = EvaluationConfig(norm="L2", attacks=("pgd5", "standard"))
    with pytest.raises(ConfigError, match=f"cannot tile images of {side} px"):
        config.check_side(side)
    EvaluationConfig(attacks=("standard",)).check_side(side)
    with pytest.raises(ConfigError, match=r"evaluation\.diagnose"):
        EvaluationConfig(norm="L2", attacks=("pgd5",)).check_side(side)
    EvaluationConfig(norm="L2", attacks=("pgd5",), diagnose=False).check_side(side)


@pytest.mark.parametrize("side", [8, 16, 20, 28, 32, 64, 224])
def test_square_in_l2_is_taken_where_they_fit(side: int) -> None:
    EvaluationConfig(norm="L2", attacks=("square",)).check_side(side)
