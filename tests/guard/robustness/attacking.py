"""A ball, samples and small networks to attack."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from guard.robustness.attacks import ThreatModel
from guard.seeding import fenced
from helpers import draws

NORMS = ("Linf", "L2")
QUERIES = 30
"""Of Square, under `fewer_steps`."""
EPS = {"Linf": 0.09, "L2": 0.5}
each_norm = pytest.mark.parametrize("norm", NORMS)


def right_samples(victim: SimpleNamespace, count: int = 24) -> tuple[Tensor, Tensor]:
    right = victim.model(victim.x).argmax(dim=1) == victim.y
    return victim.x[right][:count], victim.y[right][:count]


def threat(norm: str, classes: int = 5, scale: float = 1) -> ThreatModel:
    return ThreatModel(eps=scale * EPS[norm], num_classes=classes, norm=norm)


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(dim=1) != y


def mlp(dtype: torch.dtype, classes: int = 5) -> nn.Module:
    with fenced(1):
        layers = [nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, classes)]
        model = nn.Sequential(*layers).to(dtype).eval()
        for layer in (model[1], model[3]):
            nn.init.normal_(layer.weight)
    return model


def samples(model: nn.Module, count: int = 9) -> tuple[Tensor, Tensor]:
    """Images and the model's own labels of them, but of the first one."""
    dtype = next(model.parameters()).dtype
    x = torch.rand(count, 1, 6, 6, generator=draws(), dtype=torch.float64).to(dtype)
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % model(x).shape[1]
    return x, y
