"""Labels that are learned with the images, and which images experts get right (DATM).

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR
2024 (arXiv 2310.05773). K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from guard.data.images import ImageSet
from guard.methods.mtt.trajectory import call
from guard.models.networks import Classifier

MOMENTUM = 0.9


class LearnedLabels:
    """Logits of a set's labels (N, K), by SGD with momentum."""

    def __init__(self, logits: Tensor, lr: float) -> None:
        self.logits = logits.clone().requires_grad_()
        self.optimizer = torch.optim.SGD([self.logits], lr, momentum=MOMENTUM)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])

    def state_dict(self) -> dict[str, Any]:
        return {"logits": self.logits.detach(), "optimizer": self.optimizer.state_dict()}

    def step(self, gradient: Tensor) -> None:
        self.logits.grad = gradient
        self.optimizer.step()

    @property
    def probabilities(self) -> Tensor:
        """(N, K)."""
        return self.logits.detach().softmax(dim=1)


def packed(u: Tensor, logits: Tensor) -> Tensor:
    """Images (N, C, H, W) and the logits of their labels (N, K) as rows (N, C·H·W + K), so that one
    gradient is of both."""
    return torch.cat([u.detach().flatten(1), logits.detach()], dim=1)


def unpacked(rows: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The images (n, C, H, W), of this shape but for their number, and the logits (n, K)."""
    size = int(torch.Size(shape[1:]).numel())
    return rows[:, :size].unflatten(1, tuple(shape[1:])), rows[:, size:]


@torch.no_grad()
def first_logits(model: Classifier, thetas: Sequence[Tensor], u: Tensor, y: Tensor) -> Tensor:
    """What logits start as: the mean over the experts (P,) that get an image of u (N, C, H, W),
    labels (N,), right; over all where none does. (N, K)."""
    every = torch.stack([call(model.network, theta, u) for theta in thetas])
    right = every.argmax(dim=2) == y
    counts = torch.where(right.any(dim=0), right, torch.ones_like(right))[:, :, None]
    return (every * counts).sum(dim=0) / counts.sum(dim=0)


@torch.no_grad()
def known_first(model: Classifier, theta: Tensor, images: ImageSet, device: torch.device) -> Tensor:
    """Whether an expert (P,) gets each image right, (N,)."""
    found = []
    for x, y in images.batches(500, device):
        logits = call(model.network, theta, model.normalize(x))
        found.append((logits.argmax(dim=1) == y).cpu())
    return torch.cat(found)
