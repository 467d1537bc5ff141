"""Projected gradient ascent where torchattacks has none, or none that fits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.norms import norms, unit
from guard.training.losses import margins

Objective = Literal["cross-entropy", "margin"]


class ProjectedGradient:
    """`steps` steps of eps/4 from a random start; the first adversarial example is kept.

    objective: the cross-entropy, or the negative logit margin, whose gradient does not vanish where
    the prediction is sure (the loss of Carlini and Wagner, kept in the ball). torchattacks has no
    such loss, and its L2 version divides the gradient of the batch's mean loss by its norm + 1e-10:
    sure samples stop moving, sooner in larger batches.
    """

    def __init__(
        self, model: nn.Module, norm: str, eps: float, steps: int, objective: Objective
    ) -> None:
        self.model, self.norm, self.eps, self.steps = model, norm, eps, steps
        self.objective = objective

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        moved, found = self.start(x), torch.zeros_like(y, dtype=torch.bool)
        kept = x.clone()
        for number in range(self.steps + 1):
            moved.requires_grad_()
            logits = self.model(moved)
            fresh = (margins(logits, y).detach() < 0) & ~found
            kept = torch.where(fresh[:, None, None, None], moved.detach(), kept)
            found |= fresh
            if number == self.steps or bool(found.all()):
                break
            (gradient,) = torch.autograd.grad(self.gain(logits, y).sum(), moved)
            moved = self.project(x, moved.detach() + self.eps / 4 * self.ascent(gradient))
        return torch.where(found[:, None, None, None], kept, moved.detach())

    def gain(self, logits: Tensor, y: Tensor) -> Tensor:
        """What is to grow, (B,)."""
        if self.objective == "margin":
            return -margins(logits, y)
        return F.cross_entropy(logits, y, reduction="none")

    def start(self, x: Tensor) -> Tensor:
        """Uniform in the cube around x (B, C, H, W); in L2 a uniform direction and a uniform
        length."""
        if self.norm == "Linf":
            return self.project(x, x + self.eps * (2 * torch.rand_like(x) - 1))
        direction = unit(torch.randn_like(x))
        length = torch.rand_like(x[:, :1, :1, :1])
        return self.project(x, x + self.eps * length * direction)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The direction of a step, (B, C, H, W): of unit length in the threat model's norm."""
        return gradient.sign() if self.norm == "Linf" else unit(gradient)

    def project(self, x: Tensor, moved: Tensor) -> Tensor:
        """`moved` (B, C, H, W) into the ball around x, then into [0, 1], which leaves it in the
        ball."""
        delta = moved - x
        if self.norm == "Linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            length = lengths(delta)
            delta = delta * (self.eps / torch.where(length > self.eps, length, self.eps))
        return (x + delta).clamp(0, 1)


def lengths(values: Tensor) -> Tensor:
    """L2 norms, (B, 1, 1, 1)."""
    return norms(values)[:, None, None, None]
