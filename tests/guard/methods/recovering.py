"""A small teacher to recover images from."""

from __future__ import annotations

import torch
from coloured import SPEC

from guard.config import ModelConfig
from guard.models.networks import Classifier, build_model
from helpers import draws


def teacher(seed: int = 0) -> Classifier:
    """A network whose BatchNorm layers have seen some images."""
    model = build_model(ModelConfig(width=4, depth=2), SPEC, seed)
    for step in range(5):
        model(torch.rand(16, 3, 8, 8, generator=draws(step)))
    model.network[-1].weight.data.mul_(5)
    return model.eval()
