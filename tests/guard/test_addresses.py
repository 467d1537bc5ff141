"""Where the artifacts of a trial lie: addresses do not move by accident.

An artifact is found again by its address, so an address that moves makes people compute everything
anew. One that is meant to move (a stage's version was raised, a field was added) is written anew by

    uv run python tests/guard/test_addresses.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError
from guard.trial import TrialConfig
from guard.trial_stages import landscapes, plan

GOLDEN = Path(__file__).with_name("addresses.json")

SMALL: dict[str, Any] = {
    "model.width": 8,
    "model.depth": 3,
    "ipc": 3,
    "sre2l.chunk": 2,
    "evaluation.attacks": ["pgd20"],
    **{f"{name}.experts.count": 2 for name in ("mtt", "tesla", "mat", "datm")},
}
FIRST_METHODS = ("sre2l", "cda", "dc", "dsa", "mtt", "tesla", "mat", "random", "herding", "whole")
METHODS = (*FIRST_METHODS, "rded", "kcenter", "datm", "dm", "idm", "ncfm", "rome", "c2r")
PENALTIES = ("none", "curvature", "trades")
EVALUATIONS: dict[str, dict[str, Any]] = {
    "paper": {"evaluation": "paper"},
    "three radii": {"evaluation.more_eps": [0.05, 0.2], "evaluation.attacks": ["fgsm", "pgd20"]},
    "each alone": {
        "evaluation.cascade": False,
        "evaluation.attacks": ["standard", "deepfool"],
        "evaluation.max_samples": 100,
    },
    "L2, test": {
        "evaluation": {"norm": "L2", "eps": 0.5, "attacks": ["pgd20", "margin20"]},
        "evaluation.splits": ["test"],
        "evaluation.diagnose": False,
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "data by content": {"data": {"path": "somewhere/a.npz", "name": "npz", "sha256": "ab" * 32}},
    "data by place": {"data": {"path": "somewhere/a.npz", "name": "npz"}},
    "resnet18 on 64 px": {"model": {"name": "resnet18", "stem": "64"}, "data.image_size": 64},
    "another student": {"student.model": {"name": "convnet", "width": 4}},
    "networks of the method": {"method": "dsa", "dsa.model": {"name": "convnet", "width": 4}},
    "seeds": {"seed": 3, "student.seed": 4, "evaluation.seed": 5, "data.split_seed": 6},
    "a zero weight": {"regularizer": {"weight": 0, "h": 7}},
    "eps units": {"regularizer": {"units": "eps"}, "evaluation.eps": 0.03},
    "own radius": {"regularizer": {"kind": "adversarial", "eps": 0.2}},
    "MAT under a penalty": {"method": "mat", "regularizer": "gradient-norm"},
    "learned rate": {"method": "mtt", "student": "mtt", "mtt.experts.count": 1},
    "student's recipe": {
        "student": "sre2l-cifar",
        "student.train.crop_scale": 0.5,
        "student.scale_by_t2": True,
    },
    "on a GPU": {"compute": {"device": "cuda", "tf32": True, "num_threads": 3}},
    "a student's budget": {"method": "rded", "rded.budget": 12, "rded.attack_steps": 3},
    "an adversary and a penalty": {"method": "rome", "regularizer": "gradient-norm"},
    "from patches, in phases": {
        "sre2l": "fadrm",
        "sre2l.sizes": [6, 8, 6, 8],
        "sre2l.bn_statistics": "class",
    },
    "the hardest negatives": {"method": "c2r", "c2r.negatives": {"hardest": 9}},
    "a committee that recovers": {
        "sre2l": "fadrm",
        "sre2l.committee": {"teachers": ["own", "pgd-at"], "seeds": 2},
        "sre2l.bn_statistics": "class",
    },
    "patches are shuffled": {"method": "rded", "student": "rded-imagenet"},
    "hard epochs": {"student": "hald"},
    "a set by content": {
        "method": "given",
        "given": {"path": "a", "known": [{"path": "a", "place": "/a", "sha256": "ab" * 32}]},
        "regularizer": "none",
    },
    "a set by place": {"method": "given", "given.path": "a.npz", "regularizer": "none"},
    "part of a chunk": {"ipc": 5, "sre2l": {"chunk": 4, "crop": "image", "curriculum": "linear"}},
}


def configs() -> Iterator[tuple[str, TrialConfig]]:
    """Every case that has a meaning."""
    base = TrialConfig().override(SMALL)
    axes = itertools.product(METHODS, ("hard", "soft"), ("normalize", "zca"), PENALTIES)
    cases = [
        (
            f"{method}, {labels} labels, {layer}, {penalty}",
            {
                "method": method,
                "student.labels": labels,
                "model.input": layer,
                "regularizer": penalty,
            },
        )
        for method, labels, layer, penalty in axes
    ]
    for name, own in EVALUATIONS.items():
        cases += [(f"{method}, {name}", {"method": method, **own}) for method in ("sre2l", "mtt")]
    for name, settings in [*cases, *OTHERS.items()]:
        try:
            yield name, base.override(settings)
        except ConfigError:  # a regularizer where nothing is trained
            continue


def addresses(config: TrialConfig) -> list[str]:
    stages = [*plan(config), *landscapes(config).values()]
    return sorted({stage.address for stage in stages})


@pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in configs()])
def test_no_address_has_moved(case: tuple[str, TrialConfig]) -> None:
    name, config = case
    assert addresses(config) == json.loads(GOLDEN.read_text())[name]


def test_every_case_that_was_written_is_still_tried() -> None:
    assert {name for name, _ in configs()} == set(json.loads(GOLDEN.read_text()))


if __name__ == "__main__":
    found = {name: addresses(config) for name, config in configs()}
    GOLDEN.write_text(json.dumps(found, indent=0) + "\n")
