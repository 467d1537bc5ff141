"""SPSA: an attack that asks for logits alone, and climbs by differences of them.

Uesato et al., https://arxiv.org/abs/1802.05666.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guard.config.evaluation import SPSA_DIRECTIONS, SPSA_STEPS
from guard.robustness.attacks.pgd import ProjectedGradient

DELTA = 0.01
"""In pixels, to both sides; as published."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's."""


class Spsa(ProjectedGradient):
    """L∞. Each step asks twice in each of 64 random directions v in {−1, 1}^D, and the gradient of
    the negative logit margin J is estimated as the mean of (J(x + δv) − J(x − δv))/(2δ) · v. Adam
    takes a step of eps/4 along it (the paper: 0.01 at 8/255), and the first adversarial example is
    kept. It starts at the sample itself.

    The directions of a step are the same for every sample; with one sample alone they are, too.
    """

    def __init__(self, model: nn.Module, eps: float) -> None:
        super().__init__(model, "Linf", eps, SPSA_STEPS, "margin")

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        moved, kept = x.clone(), x.clone()
        found = torch.zeros_like(y, dtype=torch.bool)
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        for number in range(1, self.steps + 1):
            gradient = self.estimate(moved, y)
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
            first, second = mean / (1 - BETAS[0] ** number), square / (1 - BETAS[1] ** number)
            moved = self.project(x, moved + self.eps / 4 * first / (second.sqrt() + EPSILON))
            fresh = (self.gain(self.model(moved), y) > 0) & ~found
            kept = torch.where(fresh[:, None, None, None], moved, kept)
            found |= fresh
            if bool(found.all()):
                break
        return torch.where(found[:, None, None, None], kept, moved)

    def estimate(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the gradient at x (B, C, H, W)."""
        total = torch.zeros_like(x)
        for _ in range(SPSA_DIRECTIONS):
            direction = torch.rand_like(x).sub(0.5).sign()
            up, down = (self.gain(self.model(x + s * DELTA * direction), y) for s in (1, -1))
            total += ((up - down) / (2 * DELTA))[:, None, None, None] * direction
        return total / SPSA_DIRECTIONS
