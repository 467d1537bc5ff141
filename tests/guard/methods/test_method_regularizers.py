"""Every regularizer acts in every place that a method has for one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from laboratory import PENALTY, REGULARIZED, Lab, tiny, with_field

from guard.config import RegularizerConfig
from guard.config.regularizers import KINDS
from guard.stage import Stage
from guard.trial import TrialConfig, methods
from guard.trial_stages import plan
from helpers import same


def where_it_acts(config: TrialConfig) -> Any:
    """The first stage that the regularizer acts in."""
    return next(stage for stage in plan(config) if "regularizer" in stage.config)


@pytest.mark.parametrize("name", REGULARIZED)
def test_the_work_itself_gives_the_same_bytes_at_a_weight_of_zero(name: str, lab: Lab) -> None:
    """Whatever the plan says: the stage is built with the penalty of weight 0 in its config."""
    stage = where_it_acts(lab.config(name))
    zero = RegularizerConfig(kind="curvature", weight=0, h=3, fraction=0.5)
    forced: Stage = replace(stage, regularizer=zero)
    assert forced.key != stage.key
    plain, idle = (lab.built(either) for either in (stage, forced))
    assert same(plain[1], idle[1])
    assert plain[0] == idle[0]


def first_methods() -> dict[str, str]:
    """A method for every kind of stage that a regularizer acts in."""
    found: dict[str, str] = {}
    for name in sorted(REGULARIZED, key=lambda name: methods()[name].needs_batchnorm):
        found.setdefault(where_it_acts(tiny(name)).name, name)
    return found


PLACES = {**first_methods(), "gradient-matching-at-once": "dsa"}
NAMED = {name: RegularizerConfig.named(name) for name in RegularizerConfig.NAMED}
STUDENTS = {kind for kind, row in KINDS.items() if row.needs_teacher}
UNNAMED = set(KINDS) - {own.kind for own in NAMED.values()}
OTHERS = {kind: RegularizerConfig(kind=kind) for kind in sorted(UNNAMED)}
EVERY = {name: own for name, own in {**NAMED, **OTHERS}.items() if own.active}
ACTIVE = {name: own for name, own in EVERY.items() if own.kind not in STUDENTS}
ONCE = {
    "squeeze.epochs": 2,
    "dc.iterations": 1,
    "dsa.iterations": 1,
    "dsa.outer_loops": 1,
    "dsa.classes_at_once": 3,
}


def test_every_kind_is_tried_where_it_can_act() -> None:
    assert {own.kind for own in ACTIVE.values()} == set(KINDS) - {"none"} - STUDENTS
    assert {"squeeze", "gradient-matching", "expert"} <= set(PLACES)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("setting", sorted(ACTIVE))
def test_every_named_regularizer_acts_in_every_place(setting: str, place: str, lab: Lab) -> None:
    named = ACTIVE[setting]
    milder = replace(named, weight=min(named.weight, 1), steps=min(named.steps, 2))
    config = lab.config(PLACES[place], regularizer=milder, **ONCE)
    stage = where_it_acts(config)
    assert stage.name == place.removesuffix("-at-once")
    assert stage.regularizer == config.regularizer.as_read()
    uses_radius = config.regularizer.uses_threat_model
    assert stage.eps == (config.evaluation.eps if uses_radius else 0)
    summary, tensors = lab.built(stage)
    assert "diverged" not in summary
    assert all(np.isfinite(value) for value in summary["metrics"].values())
    _, plain = lab.built(where_it_acts(config.unregularized()))
    assert not same(tensors, plain)
    if stage.name == "gradient-matching":
        assert summary["metrics"]["penalty_ratio"] > 0


ATTACKS = [name for name, own in ACTIVE.items() if own.attacks]


@pytest.mark.parametrize("setting", ATTACKS)
@pytest.mark.parametrize("name", with_field("experts"))
def test_any_adversary_trains_the_experts_under_a_penalty(
    name: str, setting: str, lab: Lab
) -> None:
    adversary = ACTIVE[setting].to_dict()
    config = lab.config(name, **{f"{name}.experts.adversary": adversary, **PENALTY})
    expert = config.own.teachers(config.shared)[0]
    assert expert.config["eps"] == config.evaluation.eps
    summary, tensors = lab.built(expert)
    assert "diverged" not in summary
    plain = config.unregularized()
    _, without = lab.built(plain.own.teachers(plain.shared)[0])
    assert not same(tensors, without)
