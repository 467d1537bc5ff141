"""Which runs a design has, in which order, and which of its combinations have a meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from designed import BASE, controls_first

from guard.errors import ConfigError
from studies.design.design import Design

Facts = Mapping[str, Any]


def test_every_combination_is_run_on_every_seed() -> None:
    design = Design(
        axes={"ipc": (1, 10), "sre2l.lr": (0.1, 0.2)}, variants=[{}, {"regularizer": "cure"}]
    )
    runs = design.runs(BASE, 2)
    assert [run.trial for run in runs] == list(range(4 * 3 * 2))
    found = {
        (c.seed, c.ipc, c.sre2l.lr, c.regularizer.kind, c.regularizer.power)
        for c in (run.config for run in runs)
    }
    penalties = [("none", 2), ("curvature", 2), ("curvature", 1)]
    assert found == {
        (seed, ipc, lr, *penalty)
        for seed in (0, 1)
        for ipc in (1, 10)
        for lr in (0.1, 0.2)
        for penalty in penalties
    }


def test_points_are_all_combinations_of_the_axes() -> None:
    points = list(Design(axes={"ipc": (1, 10), "method": ("sre2l", "cda")}).points())
    assert points == [
        {"ipc": 1, "method": "sre2l"},
        {"ipc": 1, "method": "cda"},
        {"ipc": 10, "method": "sre2l"},
        {"ipc": 10, "method": "cda"},
    ]
    assert list(Design().points()) == [{}]


def test_a_control_comes_before_what_is_held_against_it() -> None:
    design = Design(axes={"ipc": (1, 10)}, variants=[{"regularizer": "cure"}, {}])
    runs = design.runs(BASE, 3)
    assert controls_first(runs)
    assert [run.control for run in runs[:6]] == [True, False, False, True, False, False]


def test_trials_run_seed_by_seed_so_more_seeds_only_add_some() -> None:
    design = Design(axes={"ipc": (1, 10)})
    few, many = design.runs(BASE, 1), design.runs(BASE, 3)
    assert many[: len(few)] == few
    assert [run.config.seed for run in many] == [0] * 4 + [1] * 4 + [2] * 4
    for own in (run.config for run in many):
        assert own.seed == own.student.seed == own.evaluation.seed


def test_the_same_configuration_is_run_once() -> None:
    width = BASE.model.width
    design = Design(axes={}, variants=[{"ipc": 10}, {"ipc": 10, "model.width": width}, {"ipc": 1}])
    runs = design.runs(BASE, 1)
    assert [(run.config.ipc, run.control) for run in runs] == [
        (10, True),
        (10, False),
        (1, True),
        (1, False),
    ]
    assert [run.trial for run in runs] == [0, 1, 2, 3]


def test_what_sets_a_run_apart_is_said_and_a_control_names_no_penalty() -> None:
    control, ours = Design(axes={"ipc": (1,)}, variants=[{"regularizer.h": 0.3}]).runs(BASE, 1)
    assert (control.control, control.params) == (True, {"ipc": 1, "seed": 0})
    assert (ours.control, ours.params) == (False, {"ipc": 1, "regularizer.h": 0.3, "seed": 0})


def test_of_trials_that_differ_in_what_they_do_not_read_the_first_is_run() -> None:
    axes = {"method": ("random", "sre2l", "whole"), "sre2l.iterations": (5, 6), "ipc": (1, 5)}
    runs = Design(axes=axes).runs(BASE.unregularized(), 2)
    found = Counter((run.config.seed, run.config.method) for run in runs)
    each = {"random": 2, "sre2l": 4, "whole": 1}
    assert found == {(seed, name): count for seed in (0, 1) for name, count in each.items()}
    assert [run.trial for run in runs] == list(range(len(runs)))


def test_single_arms_are_not_crossed_with_the_axes() -> None:
    runs = Design(axes={"ipc": (1, 5)}, single=[{"method": "whole"}]).runs(BASE, 1)
    assert [run.config.ipc for run in runs if run.config.method == "whole"] == [BASE.ipc] * 2
    assert len(runs) == 6


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "random"},
        {"method": "random", "regularizer": "cure"},
        {"method": "mat", "regularizer": "pgd-at"},
        {"model.input": "zca", "regularizer": "cure"},
        {"method": "mtt", "regularizer": "none"},
    ],
)
def test_of_a_combination_without_meaning_only_the_control_is_left(settings: Facts) -> None:
    (run,) = Design(axes={}, variants=[settings]).runs(BASE, 1)
    assert run.control and not run.config.regularizer.active
    assert run.config.method == settings.get("method", BASE.method)
    assert not any(path.startswith("regularizer") for path in run.params)


def test_a_combination_without_meaning_does_not_take_the_others_along() -> None:
    axes = {"method": ("sre2l", "random"), "regularizer": ("curvature", "pgd-at")}
    runs = Design(axes=axes).runs(BASE, 1)
    found = [(run.config.method, run.config.regularizer.kind) for run in runs]
    assert found == [
        ("sre2l", "none"),
        ("sre2l", "curvature"),
        ("sre2l", "adversarial"),
        ("random", "none"),
    ]


def test_a_value_that_some_methods_lack_is_left_out_there_and_the_reason_is_told() -> None:
    axes = {"method": ("random", "datm"), "student.labels": ("hard", "own")}
    design = Design(axes=axes, variants=[{"regularizer": "none"}])
    found, left_out = design.arms(BASE)
    assert [(own["method"], own["student.labels"]) for own, _ in found] == [
        ("random", "hard"),
        ("datm", "hard"),
        ("datm", "own"),
    ]
    assert len(left_out) == 1 and left_out[0].startswith("student.labels: own: random learns no")
    assert len(design.runs(BASE, 2)) == 6


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"method": ("random", "sre2l"), "student.labels": ("hard", "own")}, "own: random learns"),
        ({"method": ("random", "nope")}, "method: must be one of"),
        ({"ipc": (1, 0)}, "ipc: must be at least 1"),
    ],
)
def test_a_value_that_has_no_meaning_anywhere_is_raised(axes: Facts, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Design(axes=axes).runs(BASE, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ipc": 0}, "ipc: must be at least 1 and at most 100000, got 0"),
        ({"sre2l.bn_wait": 1}, "sre2l.bn_wait: no such field"),
        ({"method": "nope"}, "method: must be one of"),
        ({"model.name": "convnet"}, "model.norm: sre2l matches BatchNorm statistics"),
    ],
)
def test_any_other_mistake_is_raised(settings: Facts, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Design(axes={}, variants=[settings]).runs(BASE, 1)


def test_a_changed_field_of_another_section_is_changed_in_the_control_too() -> None:
    control, ours = Design(axes={}, variants=[{"sre2l.bn_weight": 7}]).runs(BASE, 1)
    assert control.control and not ours.control
    assert control.config.sre2l.bn_weight == ours.config.sre2l.bn_weight == 7
    assert ours.config.unregularized() == control.config
