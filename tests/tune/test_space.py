from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
)

from guard.config.schema import paths
from guard.errors import ConfigError
from guard.trial import TrialConfig, methods
from tune.planning import planned
from tune.space import CONTROL, SearchSpace, configured
from tune.trainable import StudyContext

SPACE = {
    "regularizer.h": FloatDistribution(0.01, 3, log=True),
    "ipc": CategoricalDistribution((1, 10)),
    "regularizer.kind": CategoricalDistribution(("curvature", "gradient-norm", "none")),
    "regularizer.weight": FloatDistribution(1e-3, 10, log=True),
}


@pytest.mark.parametrize(
    ("path", "distribution", "message"),
    [
        ("regularizer.hh", FloatDistribution(0, 1), "regularizer.hh: no such field.*there are"),
        ("regularizer.h", FloatDistribution(0, 1), "regularizer.h: must be greater than 0"),
        (
            "ipc",
            CategoricalDistribution((1, 0)),
            "ipc: must be at least 1 and at most 100000, got 0",
        ),
        ("method", CategoricalDistribution(("sre2l", "x")), "method: must be one of"),
    ],
)
def test_a_space_is_checked_against_the_config(path: str, distribution: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace(TrialConfig(), {path: distribution})


def draw(space: SearchSpace, **attributes: Any) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    study.enqueue_trial({}, user_attrs=attributes)
    trial = study.ask()
    params = space.suggest(trial)
    assert params == trial.params
    return params


def test_only_what_the_penalty_reads_is_drawn() -> None:
    seen = {}
    for kind in ("curvature", "gradient-norm", "none"):
        fixed = {**SPACE, "regularizer.kind": CategoricalDistribution((kind,))}
        seen[kind] = set(draw(SearchSpace(TrialConfig(), fixed))) - {"ipc", "regularizer.kind"}
    assert seen == {
        "curvature": {"regularizer.h", "regularizer.weight"},
        "gradient-norm": {"regularizer.weight"},
        "none": set(),
    }


def test_a_control_draws_its_group_and_has_no_penalty() -> None:
    space = SearchSpace(TrialConfig(), SPACE)
    params = draw(space, **{CONTROL: True})
    assert set(params) == {"ipc"}
    context = StudyContext(base=space.base.to_dict(), output="", name="s", desk="desk")
    assert not context.config(params, control=True).regularizer.active
    assert context.config(params, control=False).regularizer.active


def test_every_choice_but_the_regularizers_has_its_control() -> None:
    methods = CategoricalDistribution(("sre2l", "dc"))
    space = SearchSpace(TrialConfig(), {**SPACE, "method": methods})
    assert space.controls() == [
        {"method": method, "ipc": ipc} for method in ("sre2l", "dc") for ipc in (1, 10)
    ]
    assert SearchSpace(TrialConfig(), {}).controls() == [{}]


def test_a_hyperparameter_of_the_method_is_searched_on_both_arms() -> None:
    distribution = FloatDistribution(0.01, 1, log=True)
    methods = CategoricalDistribution(("sre2l", "mtt"))
    space = SearchSpace(TrialConfig(), {"method": methods, "sre2l.bn_weight": distribution})
    *recovered, matched = space.controls()
    assert [params["sre2l.bn_weight"] for params in recovered] == pytest.approx([0.01, 0.1, 1])
    assert matched == {"method": "mtt"}
    drawn = draw(space, **{CONTROL: True})
    assert ("sre2l.bn_weight" in drawn) == (drawn["method"] == "sre2l")


RECIPES = {
    **SPACE,
    "method": CategoricalDistribution(("sre2l", "random")),
    "student.mix": CategoricalDistribution(("cutmix", "mixup")),
    "student.train.lr": FloatDistribution(1e-3, 1e-2, log=True),
    "sre2l.bn_weight": FloatDistribution(0.01, 1, log=True),
}


def test_where_recipes_are_searched_there_is_a_control_at_the_own_values_of_each_place() -> None:
    base = TrialConfig().override({"student.train.lr": 1e-4, "sre2l.bn_weight": 0.5})
    space = SearchSpace(base, RECIPES)
    assert len(space.controls(every=True)) == 2 * (3 * 2 * 3) + 2 * (2 * 3)
    own = {"student.mix": "cutmix", "student.train.lr": 1e-3}
    assert space.controls() == [
        {"method": "sre2l", "ipc": 1, **own, "sre2l.bn_weight": 0.5},
        {"method": "sre2l", "ipc": 10, **own, "sre2l.bn_weight": 0.5},
        {"method": "random", "ipc": 1, **own},
        {"method": "random", "ipc": 10, **own},
    ]
    assert planned(space, "grid")[0] == space.controls(every=True)
    assert planned(space, "random")[0] == space.controls()


def test_the_own_values_are_tried_in_each_place_where_recipes_are_searched() -> None:
    places = {
        "ipc": CategoricalDistribution((1, 10)),
        "student.mix": CategoricalDistribution(("none", "mixup", "cutmix")),
        "student.train.optimizer": CategoricalDistribution(("adamw", "sgd")),
        "student.loss": CategoricalDistribution(("kl", "mse", "cosine")),
    }
    found = SearchSpace(TrialConfig(), places).defaults()
    own = {"student.mix": "none", "student.train.optimizer": "adamw", "student.loss": "kl"}
    assert found == [{"ipc": ipc, **own} for ipc in (1, 10)]


def test_a_bad_value_is_found_whatever_else_is_searched() -> None:
    bad = {**RECIPES, "student.ema": CategoricalDistribution((0.0, 0.5))}
    space = SearchSpace(TrialConfig(), bad)
    assert len(space.controls()) < len(space.control_configs())
    assert {config.student.ema for config in space.control_configs()} == {0, 0.5}


def test_many_fields_take_no_time() -> None:
    fields = [path for path in paths(TrialConfig) if path.endswith((".lr", ".weight_decay"))]
    many = dict.fromkeys(fields, FloatDistribution(1e-4, 1e-2, log=True))
    space = SearchSpace(TrialConfig(), many)
    assert len(many) > 12 and len(space.controls()) == 1


def test_real_images_have_no_regularizer_and_so_no_trial_but_the_control() -> None:
    methods = CategoricalDistribution(("sre2l", "random"))
    space = SearchSpace(TrialConfig(), {**SPACE, "method": methods})
    assert {params["method"] for params in space.controls()} == {"sre2l", "random"}
    assert {params["method"] for params in space.grid(2)} == {"sre2l"}
    config = configured(space.base, {"method": "random", "ipc": 1, "regularizer.weight": 3})
    assert config.method == "random" and not config.regularizer.active


def test_a_combination_without_meaning_is_refused_or_left_out_of_a_grid() -> None:
    both = {
        "method": CategoricalDistribution(("mtt", "mat")),
        "regularizer": CategoricalDistribution(("curvature", "pgd-at")),
    }
    space = SearchSpace(TrialConfig(), both)
    with pytest.raises(ConfigError, match="the experts of mat"):
        space.check_combinations()
    assert space.grid(2) == [
        {"method": "mtt", "regularizer": "curvature"},
        {"method": "mtt", "regularizer": "pgd-at"},
        {"method": "mat", "regularizer": "curvature"},
    ]


def test_the_base_configs_own_values_are_a_default_for_each_group() -> None:
    space = SearchSpace(TrialConfig(), {k: v for k, v in SPACE.items() if "kind" not in k})
    assert space.defaults() == [
        {"ipc": ipc, "regularizer.h": 0.1, "regularizer.weight": 0.1} for ipc in (1, 10)
    ]
    outside = {"regularizer.h": FloatDistribution(1, 3)}
    assert SearchSpace(TrialConfig(), outside).defaults() == []


def test_a_grid_has_each_combination_once_and_respects_conditions() -> None:
    grid = SearchSpace(TrialConfig(), SPACE).grid(3)
    keys = [tuple(sorted(params.items(), key=str)) for params in grid]
    assert len(set(keys)) == len(keys) == 2 * (3 * 3 + 3)
    assert all("regularizer.h" not in p for p in grid if p["regularizer.kind"] != "curvature")
    assert all(p["regularizer.kind"] != "none" for p in grid)  # the controls


def test_a_section_is_drawn_only_for_the_methods_that_read_it() -> None:
    weight, rate = FloatDistribution(0, 1), FloatDistribution(0.01, 0.1)
    space = SearchSpace(TrialConfig(), {"sre2l.bn_weight": weight, "squeeze.lr": rate})
    read = {
        name: [path for path in space.paths if space.active(path, {"method": name})]
        for name in methods()
    }
    assert read.pop("sre2l") == ["sre2l.bn_weight", "squeeze.lr"]
    assert {name for name, paths in read.items() if paths == ["squeeze.lr"]} == {
        "cda",
        "herding",
        "whole",
        "rded",
    }
    assert all(paths in ([], ["squeeze.lr"]) for paths in read.values())
