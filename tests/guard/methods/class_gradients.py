"""A small network, images of three classes, and the gradients of each class."""

from __future__ import annotations

from typing import Any

import torch
from coloured import SPEC
from torch import Tensor, nn

from guard.config import ModelConfig, RegularizerConfig
from guard.methods.dc.gradients import ClassGradients, Gradients
from guard.models.batchnorm import batchnorms
from guard.models.networks import Classifier, build_model
from guard.training.losses import TrainingLoss
from helpers import draws

GROUP = torch.tensor([2, 0, 3])
EPS = 0.03
PLAIN = TrainingLoss(RegularizerConfig.named("none"))


def convnet(norm: str = "instance") -> Classifier:
    model = build_model(ModelConfig(name="convnet", width=4, depth=2, norm=norm), SPEC).double()
    for bn in batchnorms(model):
        bn.running_mean.copy_(torch.rand(4, generator=draws(1)))
        bn.running_var.copy_(torch.rand(4, generator=draws(2)) + 0.5)
    return model.eval()


def images(count: int = 6, seed: int = 5) -> Tensor:
    """Pixels (3, count, C, H, W) of the classes of GROUP."""
    return torch.rand(3, count, 3, 8, 8, generator=draws(seed), dtype=torch.float64)


def named(name: str, **fields: Any) -> TrainingLoss:
    return TrainingLoss(RegularizerConfig(**{**RegularizerConfig.NAMED[name], **fields}), EPS)


def of_real(
    loss: TrainingLoss, model: nn.Module, x: Tensor, at_once: int, epoch: int = 0, seed: int = 0
) -> Gradients:
    return ClassGradients(loss, at_once).of_real(model, x, GROUP, epoch, seed)


def by_backward(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """What an ordinary backward pass leaves in `.grad`, which is emptied again."""
    model.zero_grad()
    loss.backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def assert_same(got: Gradients, wanted: Gradients, tolerance: float = 1e-9) -> None:
    """Relative, of each parameter and class."""
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        for a, b in zip(one, other, strict=True):
            assert float((a - b).norm()) <= tolerance * float(b.norm()) + 1e-13
