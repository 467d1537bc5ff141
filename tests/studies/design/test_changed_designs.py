"""What settings of a user make of a design, as `--set` gives them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from designed import BASE, PRESET

from guard.config import EvaluationConfig
from guard.errors import ConfigError, StudyError
from studies import compare
from studies.design.design import Design
from studies.design.study import confirmed
from studies.driver.settings import base_config, parse_settings


def changed(design: Design, *settings: str) -> Design:
    """As `--set` says."""
    return design.changed(parse_settings(settings))


DESIGN = Design(
    axes={"ipc": (1, 10)},
    variants=[{"method": "sre2l"}, {"method": "mtt", "regularizer": "none"}],
    single=[{"method": "whole"}],
    settings={"evaluation.splits": ["test"], "ipc": 5},
)


def test_a_choice_becomes_an_axis() -> None:
    found = changed(DESIGN, "sre2l.lr=choice(0.1, 0.2)")
    assert found.axes == {"ipc": (1, 10), "sre2l.lr": (0.1, 0.2)}
    assert (found.variants, found.single) == (DESIGN.variants, DESIGN.single)


def test_a_choice_takes_the_place_of_an_axis_and_of_a_fixed_value() -> None:
    found = changed(DESIGN, "ipc=choice(2, 3)")
    assert found.axes == {"ipc": (2, 3)}
    assert found.settings == {"evaluation.splits": ["test"]}


def test_a_choice_takes_the_place_of_what_variants_say() -> None:
    found = changed(DESIGN, "method=choice(cda, dc)")
    assert found.axes == {"ipc": (1, 10), "method": ("cda", "dc")}
    assert found.variants == [{}, {"regularizer": "none"}]
    assert found.single == []


def test_a_plain_value_takes_the_place_of_an_axis_and_of_what_variants_say() -> None:
    found = changed(DESIGN, "ipc=7", "method=cda")
    assert found.axes == {}
    assert found.settings == {"evaluation.splits": ["test"], "ipc": 7, "method": "cda"}
    assert found.variants == [{}, {"regularizer": "none"}]
    assert found.single == []


def test_variants_that_become_the_same_are_one() -> None:
    found = changed(
        Design(axes={}, variants=[{"ipc": 1}, {"ipc": 10}, {"ipc": 1, "model.width": 8}]), "ipc=2"
    )
    assert found.variants == [{}, {"model.width": 8}]


def test_nothing_set_changes_nothing() -> None:
    assert DESIGN.changed({}) == DESIGN


@pytest.mark.parametrize("value", ["uniform(0, 1)", "loguniform(0.1, 1)", "int(1, 5)"])
def test_what_would_be_drawn_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(StudyError) as caught:
        changed(DESIGN, f"regularizer.h={value}")
    assert str(caught.value) == (
        "--set: regularizer.h takes a value or choice(…) here; nothing is drawn"
    )


def test_settings_of_a_user_hold_in_every_trial_of_a_study() -> None:
    design = changed(compare.design(PRESET), "ipc=3", "evaluation.eps=0.05")
    runs = design.runs(base_config(BASE, design.fixed, ()), 1)
    assert {(run.config.ipc, run.config.evaluation.eps) for run in runs} == {(3, 0.05)}
    assert len(runs) == 10


@pytest.mark.parametrize(
    "setting",
    [
        "regularizer.hh=choice(1, 2)",
        "regularizer.h=choice(-1, 0.1)",
        "regularizer=choice(foo, cure)",
    ],
)
def test_a_penalty_that_is_wrong_everywhere_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="regularizer"):
        changed(Design(), setting).runs(BASE, 1)


def test_a_weight_of_zero_is_the_control_and_no_second_one() -> None:
    runs = changed(Design(), "regularizer.weight=choice(0, 0.3)").runs(BASE, 1)
    assert [run.config.regularizer.active for run in runs] == [False, True]


@pytest.mark.parametrize(
    "setting", ["seed=7", "student.seed=1", "evaluation.seed=1", "seed=choice(0, 1)"]
)
def test_seeds_are_set_by_their_flag(setting: str) -> None:
    with pytest.raises(StudyError, match="--seeds"):
        changed(Design(), setting)


def test_a_section_that_a_user_sets_is_the_users_but_for_the_split() -> None:
    design = changed(Design(settings=confirmed(PRESET)), "evaluation=paper")
    base = base_config(BASE, design.fixed, ())
    assert base.evaluation == replace(EvaluationConfig.named("paper"), splits=("test",))
