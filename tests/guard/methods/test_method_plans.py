"""What every base method plans, and which trials it refuses. Nothing is trained here."""

from __future__ import annotations

import re
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
    names,
    stages,
    starting,
    tiny,
    with_field,
)

from guard.config import RegularizerConfig
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


def refused(changes: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(changes)
    assert "\n" not in str(caught.value)
    return caught.value


CONV = {"model.name": "convnet"}
ZCA = {"model.input": "zca", "regularizer.units": "normalized"}
NAMED = {name: RegularizerConfig.named(name) for name in RegularizerConfig.NAMED}
ATTACKS = {
    name: own.kind for name, own in NAMED.items() if own.attacks and not own.facts.needs_teacher
}


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        *[
            ({"method": name}, "regularizer", f"{name} trains no network .* curvature")
            for name in METHODS
            if name not in REGULARIZED
        ],
        (
            {"method": "random", "regularizer": "pgd-at", "student.labels": "hard"},
            "regularizer",
            "random .* adversarial",
        ),
        *[
            (
                {"method": "mat", "regularizer": name},
                "regularizer.kind",
                f"^the experts .* already .adversarial.; got {kind}$",
            )
            for name, kind in ATTACKS.items()
        ],
        (
            {"method": "mtt", "mtt.experts.adversary": "trades", "regularizer": "fgsm-rs"},
            "regularizer.kind",
            "^the experts .* already .trades.; got adversarial$",
        ),
        ({"mtt.experts.adversary": "curvature"}, "mtt.experts.adversary.kind", "one of none, adv"),
        *[
            ({"method": name, **CONV}, "model.norm", f"{name} matches BatchNorm")
            for name in names(lambda method: method.needs_batchnorm)
        ],
        ({"cda.crop": "none"}, "cda.curriculum", "needs crop"),
        ({"sre2l.phases": 301}, "sre2l.phases", "at most iterations = 300, got 301"),
        ({"sre2l.residual": 0.5}, "sre2l.residual", "needs patches .* got patches = None"),
        ({"cda.phases": 3, "cda.sizes": [8, 9]}, "cda.sizes", "each of 3 phases, got 2"),
        (
            {"model.input": "zca", "sre2l.sizes": [8], "regularizer": "none"},
            "sre2l.sizes",
            "images of any side",
        ),
        ({"sre2l.patches": {"budget": 30}}, "sre2l.patches.budget", "squeeze.epochs = 20, got 30"),
        (
            {"method": "rded", "rded.budget": 21},
            "rded.budget",
            "at most squeeze.epochs = 20, got 21",
        ),
        ({"dm.adversary": "pgd-at"}, "dm.adversary", "trained, got networks = None"),
        ({"dm.label_weight": 1}, "dm.label_weight", "trained, got networks = None"),
        ({"dm.hardest_first": True}, "dm.hardest_first", "trained, got networks = None"),
        ({"idm.contrast_weight": 1}, "idm.contrast_weight", "an adversary, got adversary = none"),
        ({"rome.adversary": "curvature"}, "rome.adversary.kind", "attack images, .* curvature"),
        (
            {"method": "idm", "idm.networks": None, "idm.label_weight": 0},
            "idm.networks",
            "curvature needs networks that are trained, got None",
        ),
        *[
            ({"method": name, "regularizer": own}, "regularizer.kind", f"^the networks .* {kind}$")
            for name in ("rome", "c2r")
            for own, kind in ATTACKS.items()
        ],
        ({"rded.budget": 8}, "rded.budget", r"at least deviation_epochs \+ .* = 9, got 8"),
        ({"sre2l.curriculum": "linear"}, "sre2l.curriculum", "needs crop .* got crop = none"),
        ({"mtt.max_start": 50}, "mtt.experts.train.epochs", "starts at epoch 49 .* 51, got 50"),
        ({"tesla.expert_epochs": 32}, "tesla.experts.train.epochs", "of 32 epochs .* 51, got 50"),
        ({"mat.experts.train.epochs": 20}, "mat.experts.train.epochs", "least 21, got 20"),
        ({"datm.soft_labels": True}, "datm.lr_labels", "needs soft_labels = false, got true"),
        ({"datm.min_start": 10}, "datm.min_start", "must be below 10, got 10"),
        ({"datm.max_start": 9}, "datm.first_max_start", "at most max_start = 9, got 10"),
        ({"mtt.published_half": True}, "mtt.published_half", "got gradient = adjoint"),
        (
            {"tesla.published_half": True, "tesla.gradient": "unroll"},
            "tesla.published_half",
            "got gradient = unroll",
        ),
        *[
            (
                {"method": name, "regularizer": "none", "student.learned_lr": True},
                "student.learned_lr",
                f"{name} learns no learning rate",
            )
            for name in METHODS
            if name not in LEARNS_RATE
        ],
        *[
            ({"method": name, **ZCA}, "regularizer.units", "needs model.input = normalize")
            for name in REGULARIZED
        ],
        (
            {"method": "dc", **ZCA, "dc.model": {}, "student.labels": "soft"},
            "regularizer.units",
            "needs model.input = normalize",
        ),
        (
            {"method": "whole", **ZCA, "model.input": "normalize", "student.model.input": "zca"},
            "regularizer.units",
            "needs model.input = normalize",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(
    changes: dict[str, Any], path: str, rule: str
) -> None:
    error = refused(changes)
    assert error.path == path
    assert re.search(rule, error.rule), error.rule


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "random", "student.labels": "soft"},
        {"method": "herding", "regularizer": "trades", "student.labels": "soft"},
        {"method": "random", "regularizer.weight": 0},
        {"method": "mat", "regularizer": "curvature"},
        {"method": "mat", "mat.experts.adversary": "none", "regularizer": "trades"},
        {"method": "dc", **CONV},
        {"method": "cda", "cda.crop": "none", "cda.curriculum": "none"},
        {"mtt.max_start": 49},
        {"tesla.published_half": True},
        {"method": "mtt", "mtt.model": {}, **ZCA},
        {"method": "sre2l", **ZCA, "model.input": "normalize", "student.model.input": "zca"},
        {"method": "tesla", "student.learned_lr": True},
        {"rded.budget": 21},
        {"method": "dm", "regularizer": "none", "dm.networks": {}, "dm.adversary": "pgd-at"},
        {"method": "idm", "regularizer": "pgd-at"},
        {"method": "rome", "regularizer": "curvature"},
        {"method": "c2r", "c2r.adversary": "none", "c2r.contrast_weight": 0},
        {"method": "rded", "rded.budget": 20},
    ],
)
def test_what_has_a_meaning_is_not_refused(changes: dict[str, Any]) -> None:
    assert plan(TrialConfig().override(changes))


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
