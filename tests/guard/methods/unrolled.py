"""Students of a few steps, whose gradients a trajectory has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trajectory_matching import SPEC

from guard.config import ModelConfig
from guard.methods.mtt.trajectory import (
    Gradient,
    StepLoss,
    TrajectoryGradient,
    call,
    flat_parameters,
)
from guard.models.networks import build_model
from helpers import draws, relative_error

LABELS = torch.arange(8) % 4
UNUSED = 7
"""The image that is in no batch."""


@dataclass(frozen=True)
class Problem:
    model: nn.Module
    step_loss: StepLoss
    theta: Tensor
    target: Tensor
    images: Tensor
    rate: Tensor
    steps: int = 6

    def solve(self, gradient: Gradient) -> TrajectoryGradient:
        return gradient(self.step_loss, self.theta, self.target, self.images, self.rate, self.steps)

    @property
    def inputs(self) -> list[Tensor]:
        return [self.theta, self.target, self.images, self.rate]


def batch(number: int) -> Tensor:
    """Three of the images before UNUSED, others at every step."""
    return torch.randperm(UNUSED, generator=draws(number))[:3]


def problem(model: nn.Module, dtype: torch.dtype = torch.float64, steps: int = 6) -> Problem:
    """Steps of a visible size on minibatches; every other one sees its images mirrored."""
    model = model.to(dtype)

    def step_loss(theta: Tensor, images: Tensor, number: int) -> Tensor:
        chosen = batch(number)
        x = images[chosen].flip(3) if number % 2 else images[chosen]
        return F.cross_entropy(call(model, theta, x), LABELS[chosen])

    theta = flat_parameters(model)
    target = theta + 0.05 * torch.randn(theta.shape, generator=draws(1)).to(dtype)
    images = torch.rand(8, 3, 8, 8, generator=draws(2)).to(dtype)
    return Problem(model, step_loss, theta, target, images, torch.tensor(0.1, dtype=dtype), steps)


def convnet(width: int = 8, norm: str = "instance") -> nn.Module:
    config = ModelConfig(name="convnet", width=width, depth=2, norm=norm)
    return build_model(config, SPEC)


def assert_same(got: TrajectoryGradient, wanted: TrajectoryGradient, tolerance: float) -> None:
    for name in ("loss", "images", "rate"):
        assert relative_error(getattr(got, name), getattr(wanted, name)) < tolerance, name
