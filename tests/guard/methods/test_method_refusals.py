"""Which trials every base method refuses, and which it does not. Nothing is trained here."""

from __future__ import annotations

import re
from typing import Any

import pytest
from laboratory import LEARNS_RATE, METHODS, REGULARIZED, names

from guard.config import RegularizerConfig
from guard.errors import ConfigError
from guard.trial import TrialConfig
from guard.trial_stages import plan


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
