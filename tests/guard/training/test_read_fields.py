"""A regularizer's kind reads the fields that it says: a stage's address depends on no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from attacked import EPS, samples, smooth_net

from builders import configured
from guard.config import RegularizerConfig
from guard.config.regularizers import KINDS
from guard.training.losses import TrainingLoss
from guard.trial_stages import plan
from helpers import draws

OTHER: dict[str, Any] = {
    "weight": 0.7,
    "h": 0.3,
    "units": "eps",
    "power": 1,
    "direction": "sign",
    "scale": "batch-mean",
    "bn": "frozen-batch",
    "fraction": 0.5,
    "weight_warmup_epochs": 3,
    "h_ramp": (0.01,),
    "steps": 2,
    "step_size": 0.9,
    "eps": 0.2,
}


def loss(config: RegularizerConfig) -> torch.Tensor:
    x, y = samples()
    return TrainingLoss(config, EPS)(smooth_net(), x, y, 0, draws(2))[0]


def addresses(config: RegularizerConfig) -> list[str]:
    return [stage.address for stage in plan(configured({"regularizer": config.to_dict()}))]


@pytest.mark.parametrize("kind", [kind for kind, row in KINDS.items() if not row.needs_teacher])
def test_what_a_kind_does_not_read_changes_neither_loss_nor_address(kind: str) -> None:
    config = RegularizerConfig(kind=kind)
    unread = {name: value for name, value in OTHER.items() if name not in config.fields_used()}
    other = replace(config, **unread)
    assert unread and torch.equal(loss(other), loss(config))
    assert addresses(other) == addresses(config)


@pytest.mark.parametrize("kind", ["curvature", "loss-difference", "gradient-norm", "trades"])
def test_what_a_kind_reads_changes_both(kind: str) -> None:
    config = RegularizerConfig(kind=kind)
    for name in OTHER.keys() & config.fields_used():
        other = replace(config, **{name: OTHER[name]})
        assert addresses(other) != addresses(config), name
        if name not in ("bn", "weight_warmup_epochs", "units"):
            assert not torch.equal(loss(other), loss(config)), name
