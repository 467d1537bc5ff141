"""Small networks in double precision, and the penalties by their definitions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from guard.config import RegularizerConfig
from guard.config.regularizers import KINDS as ALL
from guard.models.batchnorm import batchnorms
from guard.training.penalties import Regularizer
from helpers import draws, randomised

SHAPE, CLASSES = (2, 3, 3), 4
DIM = math.prod(SHAPE)
MEAN, STD = (0.3, 0.6), (0.2, 0.5)
KINDS = tuple(kind for kind, row in ALL.items() if kind != "none" and not row.attacks)
DEFINED = ("curvature", "loss-difference", "gradient-norm")
"""Penalties that `by_hand` has the definition of."""


def smooth_net(activation: type[nn.Module] = nn.Softplus, seed: int = 0) -> nn.Sequential:
    layers = [nn.Flatten(), nn.Linear(DIM, 10), activation(), nn.Linear(10, CLASSES)]
    return randomised(nn.Sequential(*layers), seed)


def bn_net(seed: int = 0) -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(SHAPE[0], 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 4)
    )
    model = randomised(network, seed)
    bn = batchnorms(model)[0]
    bn.running_mean.copy_(torch.rand(3, generator=draws(1)))
    bn.running_var.copy_(torch.rand(3, generator=draws(2)) + 0.5)
    return model


def samples(count: int = 5, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = draws(seed)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def penalty(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 0.0,
    epoch: int = 0,
    seed: int = 0,
    **config: Any,
) -> Tensor:
    regularizer = Regularizer(RegularizerConfig(**{"weight": 1, **config}), eps)
    return regularizer(model, x, y, epoch, draws(seed))


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return -model(x[None]).log_softmax(dim=1)[0, y]


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss_of(model, x, y), x)[0]


def step_along(gradient: Tensor, kind: str) -> Tensor:
    if kind == "sign":
        return gradient.sign() / math.sqrt(int(gradient.count_nonzero()))
    if kind == "released":
        return (gradient + 1e-7) / (gradient.square().sum().sqrt() + 1e-7)
    return gradient / gradient.square().sum().sqrt()


def by_hand(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    kind: str,
    h: float,
    power: int,
    direction: str = "gradient",
    moved: list[Tensor] | None = None,
) -> float:
    """The definition, one sample after another. `moved`: x + hz, where they are already known."""
    values = []
    for i in range(len(x)):
        gradient = gradient_of(model, x[i], y[i])
        there = x[i] + h * step_along(gradient, direction) if moved is None else moved[i]
        if kind == "curvature":
            difference = gradient_of(model, there, y[i]) - gradient
        elif kind == "loss-difference":
            difference = (loss_of(model, there, y[i]) - loss_of(model, x[i], y[i])).detach()
        else:
            difference = gradient
        values.append(math.sqrt(float(difference.square().sum())) ** power)
    return sum(values) / len(values)
