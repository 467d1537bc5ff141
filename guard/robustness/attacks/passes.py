"""Counts what an attack asks of a model."""

from __future__ import annotations

from torch import Tensor, nn


class Counted(nn.Module):
    """A model that counts the samples that go forward and backward through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_passes = self.backward_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of x (B, C, H, W)."""
        logits: Tensor = self.model(x)
        self.forward_passes += len(x)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.backward_passes += len(gradient)
