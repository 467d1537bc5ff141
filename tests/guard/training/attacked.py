"""Small networks in double precision, and attacks on them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.config.regularizers import KINDS
from guard.training.losses import ADVERSARIAL_LOSSES, attack_batch
from helpers import draws, randomised

SHAPE, CLASSES = (2, 3, 3), 4
EPS = 0.1
ATTACKS = tuple(kind for kind, row in KINDS.items() if row.attacks)
DEFINED = ("adversarial", "trades", "mart")
"""Attacks that `loss_by_hand` and `pixel_by_pixel` have the definitions of."""


def adversarial_loss(
    kind: str, model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Over the cross-entropy of y."""
    plain = partial(F.cross_entropy, target=y)
    return ADVERSARIAL_LOSSES[kind](model, x, attacked, y, weight, plain)


def smooth_net(seed: int = 0) -> Any:
    layers = (nn.Flatten(), nn.Linear(18, 10), nn.Softplus(), nn.Linear(10, CLASSES))
    return randomised(nn.Sequential(*layers), seed, 0.5)


def bn_net() -> Any:
    layers = (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 4))
    model = randomised(nn.Sequential(*layers), 0, 0.5)
    model[1].running_mean.copy_(torch.rand(3, generator=draws(1)))
    model[1].running_var.copy_(torch.rand(3, generator=draws(2)) + 0.5)
    return model


def samples(count: int = 6, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = draws(3)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)
    return low + (high - low) * x, torch.randint(CLASSES, (count,), generator=generator)


def config(kind: str = "adversarial", **fields: Any) -> RegularizerConfig:
    return RegularizerConfig(kind=kind, **fields)


def attack(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float = EPS, seed: int = 0, **fields: Any
) -> Tensor:
    return attack_batch(model, x, y, config(**fields), eps, draws(seed))


def searching(kind: str = "adversarial", **fields: Any) -> RegularizerConfig:
    return config(kind, ascent="ls-pgd", **fields)
