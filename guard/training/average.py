"""A moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WeightAverage:
    """a·average + (1−a)·weights after each step, of parameters and BatchNorm's statistics."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        """rate: a."""
        self.rate = rate
        self._average = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After a step."""
        for name, value in model.state_dict().items():
            own = self._average[name]
            if value.is_floating_point():
                own.lerp_(value, 1 - self.rate)
            else:
                own.copy_(value)

    def give_to(self, model: nn.Module) -> None:
        """Make the average the model's weights."""
        model.load_state_dict(self._average)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self._average[name].copy_(value)
