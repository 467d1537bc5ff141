"""What every base method plans. Nothing is trained here."""

from __future__ import annotations

from typing import Any

import pytest
from laboratory import (
    CAN_START_REAL,
    DISTILS,
    EVERYTHING,
    LABELLED,
    LEARNS_RATE,
    METHODS,
    PENALTY,
    REGULARIZED,
    UNLABELLED,
    Lab,
    keys,
    stages,
    starting,
    tiny,
    with_field,
)

from guard.config.schema import field_names
from guard.errors import ConfigError
from guard.stage import closure
from guard.trial import TrialConfig, methods, sections
from guard.trial_stages import STAGES, plan


def test_every_method_is_a_field_and_a_name_of_the_config() -> None:
    assert METHODS == tuple(name for name in field_names(TrialConfig) if name in METHODS)
    for name in METHODS:
        config = TrialConfig().override({"method": name, "regularizer": "none"})
        assert type(config.own) is methods()[name] and config.own is getattr(config, name)
        assert config.own.takes_regularizer is (name in REGULARIZED)
        assert config.distils is (name in DISTILS)
    assert set(LABELLED) | set(UNLABELLED) == set(DISTILS) != set(METHODS)
    assert set(LEARNS_RATE) < set(DISTILS)
    with pytest.raises(ConfigError, match=f"^method: must be one of {', '.join(METHODS)}; got"):
        TrialConfig(method="gan")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_sections_that_there_are(name: str) -> None:
    own = sections(methods()[name])
    assert set(own) <= set(field_names(TrialConfig))
    assert name in own and not (set(own) & set(METHODS)) - {name}


@pytest.mark.parametrize("name", METHODS)
def test_a_section_that_is_not_named_changes_nothing(name: str, lab: Lab) -> None:
    config = lab.config(name)
    changes = {
        "squeeze": {"squeeze.lr": 0.03},
        **{section: {f"{section}.iterations": 7} for section in with_field("iterations")},
    }
    for section, change in changes.items():
        same_keys = keys(config) == keys(config.override(change))
        assert same_keys is (section not in sections(methods()[name]))


@pytest.mark.parametrize("model_input", ["normalize", "zca"])
@pytest.mark.parametrize("labels", ["auto", "soft", "hard"])
@pytest.mark.parametrize("name", METHODS)
def test_a_stage_reads_only_what_was_planned_before_it(
    name: str, labels: str, model_input: str, lab: Lab
) -> None:
    config = lab.config(name, **{"student.labels": labels, "model.input": model_input})
    known: set[str] = set()
    for stage in plan(config):
        assert {needed.address for needed in stage.inputs.values()} <= known, stage.name
        known.add(stage.address)
    assert len(known) == len(plan(config))
    assert len(stages(config, "whitening")) == (model_input == "zca")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_plans_stages_of_its_own_and_those_that_all_share(name: str) -> None:
    method = methods()[name]
    wanted = [own for family, own in EVERYTHING.items() if issubclass(method, family)]
    config = tiny(name, **{f"{name}.{path}": v for own in wanted for path, v in own.items()})
    teachers = config.own.teachers(config.shared)
    parts = config.own.parts(config.shared, teachers)
    assert bool(parts) is method.distils
    shared = set(STAGES.values()) - {kind for m in methods().values() for kind in m.stages}
    made = {type(stage) for stage in closure(*teachers, *parts)}
    assert made <= {*method.stages, *shared} and set(method.stages) <= made
    assert not method.teacher_labels or teachers


OFF = ({"regularizer.weight": 0}, {"regularizer": {"kind": "trades", "weight": 0, "eps": 0.3}})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("off", OFF, ids=["penalty", "attack"])
def test_a_weight_of_zero_is_the_unregularized_trial(
    off: dict[str, Any], name: str, lab: Lab
) -> None:
    config = lab.config(name, **{**PENALTY, **off} if name in REGULARIZED else off)
    assert keys(config) == keys(config.unregularized()) == keys(lab.config(name))


STARTS_FROM_NOISE = [
    n for n in METHODS if not tiny(n, **starting(n, "noise")).own.needs_real_images
]


def test_images_start_as_real_ones_or_as_noise() -> None:
    assert set(CAN_START_REAL) >= {*with_field("init"), "random", "herding"}
    assert set(STARTS_FROM_NOISE) >= {*with_field("init"), "sre2l", "cda", "whole"}


@pytest.mark.parametrize("name", STARTS_FROM_NOISE)
def test_a_method_that_starts_from_noise_takes_any_number_of_images(name: str) -> None:
    config = tiny(name, ipc=31, **starting(name, "noise"))
    assert not config.own.needs_real_images and plan(config)


def test_the_whole_set_shares_its_network_with_the_teacher_of_sre2l(lab: Lab) -> None:
    whole, sre2l = lab.config("whole", **{"model.norm": "batch"}), lab.config("sre2l")
    assert keys(whole, "squeeze") == keys(sre2l, "squeeze") and len(keys(whole, "squeeze")) == 1
    other = whole.override({"student.model": {"name": "convnet", "width": 3, "depth": 2}})
    assert keys(other, "squeeze") != keys(sre2l, "squeeze")
    assert stages(other, "squeeze")[0].config["model"]["width"] == 3


def test_the_whole_set_is_no_set(lab: Lab) -> None:
    planned = [stage.name for stage in plan(lab.config("whole"))]
    assert planned == ["squeeze", "evaluate", "evaluate"]


def test_experts_are_shared_by_methods_and_sizes(lab: Lab) -> None:
    mtt = lab.config("mtt")
    experts = keys(mtt, "expert")
    assert len(set(experts)) == 2
    assert keys(lab.config("tesla"), "expert") == experts
    assert keys(lab.config("mtt", ipc=5), "expert") == experts
    assert keys(lab.config("mtt", **{"mtt.lr_images": 3.0}), "expert") == experts
    assert keys(lab.config("mtt", **{"mtt.experts.count": 3}), "expert")[:2] == experts
    longer = lab.config("mtt", **{"mtt.experts.train.epochs": 4})
    assert not set(keys(longer, "expert")) & set(experts)
    assert not set(keys(lab.config("mat"), "expert")) & set(experts)


def test_matching_depends_on_the_experts_that_it_reads(lab: Lab) -> None:
    mtt, more = lab.config("mtt"), lab.config("mtt", **{"mtt.experts.count": 3})
    (first,), (second,) = (stages(config, "trajectory-matching") for config in (mtt, more))
    assert list(first.inputs.values()) == stages(mtt, "expert")
    assert len(second.inputs) == 3 and first.key != second.key
