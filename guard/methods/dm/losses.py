"""What distribution matching minimises. e: features (N, F); K classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_distance(kind: str, ours: Tensor, target: Tensor) -> Tensor:
    """Distance of the mean features (K, F) of each class, (K,). squared: ‖difference‖² (DM, Eq. 6);
    absolute: (½‖difference‖₁)² (ROME)."""
    difference = ours - target
    if kind == "squared":
        return difference.square().sum(dim=1)
    return (difference.abs().sum(dim=1) / 2).square()


def supervised_contrast(e: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Of features e (N, F) with labels y (N,): the mean over i of −log of the share that each other
    one of its class has of exp(cos(e_i, ·)/τ) over all others, averaged over these (arXiv
    2004.11362, Eq. 2). An i that is alone in its class counts nothing."""
    unit = F.normalize(e, dim=1)
    myself = torch.eye(len(e), dtype=torch.bool, device=e.device)
    similarity = (unit @ unit.T / temperature).masked_fill(myself, -torch.inf)
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    positive = (y[:, None] == y) & ~myself
    count = positive.sum(dim=1)
    each = log_share.masked_fill(~positive, 0).sum(dim=1) / count.clamp(min=1)
    return -each.sum() / (count > 0).sum().clamp(min=1)


def hardest_first(margins: Tensor, draws: torch.Generator) -> Tensor:
    """Indices of attacked images with these margins (N,), by max(0, 1 − margin) from the largest;
    equal ones in an order that is drawn."""
    drawn = torch.randperm(len(margins), generator=draws)
    hardness = (1 - margins.cpu()).clamp(min=0)
    return drawn[hardness[drawn].argsort(descending=True, stable=True)]
