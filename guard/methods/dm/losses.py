"""What distribution matching minimises. e: features (N, F); K classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12
"""Below it a squared difference has no gradient, where that of its root would be infinite."""


def characteristic(e: Tensor, frequencies: Tensor) -> Tensor:
    """cos and sin of the products of unit features e (N, F) with frequencies t (T, F): (N, 2T).
    Their mean over a set is its empirical characteristic function at t, real and imaginary part."""
    products: Tensor = F.normalize(e, dim=1) @ frequencies.T
    return torch.cat([products.cos(), products.sin()], dim=1)


def mean_distance(kind: str, ours: Tensor, target: Tensor) -> Tensor:
    """Distance of the mean features (K, F) of each class, (K,). squared: ‖difference‖² (DM, Eq. 6);
    absolute: (½‖difference‖₁)² (ROME). characteristic: mean over t of |φ(t) − φ'(t)|/√2, of values
    φ as `characteristic` has them; with equal weights that is NCFM's √(½·(|φ| − |φ'|)² +
    ½·2(|φ||φ'| − Re φφ'*))."""
    difference = ours - target
    if kind == "characteristic":
        pairs: Tensor = difference.unflatten(1, (2, -1))
        real, imaginary = pairs.unbind(dim=1)
        squared = (real.square() + imaginary.square()).clamp(min=TINY)
        return (squared / 2).sqrt().mean(dim=1)
    if kind == "squared":
        return difference.square().sum(dim=1)
    return (difference.abs().sum(dim=1) / 2).square()


def supervised_contrast(
    e: Tensor,
    y: Tensor,
    temperature: float,
    negatives: Tensor | None = None,
    anchors: int | None = None,
) -> Tensor:
    """Of features e (N, F) with labels y (N,): the mean over i of −log of the share that each other
    one of its class has of exp(cos(e_i, ·)/τ) over all others, averaged over these (arXiv
    2004.11362, Eq. 2). An i that is alone in its class counts nothing.

    negatives: cosines (N, k) of each i with what it is told from, in place of the others of other
    classes. anchors: i is one of the first so many alone; None: any.
    """
    unit = F.normalize(e, dim=1)
    myself = torch.eye(len(e), dtype=torch.bool, device=e.device)
    similarity = (unit @ unit.T / temperature).masked_fill(myself, -torch.inf)
    positive = (y[:, None] == y) & ~myself
    among = similarity
    if negatives is not None:
        own = similarity.masked_fill(~positive, -torch.inf)
        among = torch.cat([own, negatives / temperature], dim=1)
    log_share = similarity - among.logsumexp(dim=1, keepdim=True)
    count = positive.sum(dim=1)[:anchors]
    each = log_share.masked_fill(~positive, 0).sum(dim=1)[:anchors] / count.clamp(min=1)
    return -each.sum() / (count > 0).sum().clamp(min=1)


def hardest_first(margins: Tensor, draws: torch.Generator) -> Tensor:
    """Indices of attacked images with these margins (N,), by max(0, 1 − margin) from the largest;
    equal ones in an order that is drawn."""
    drawn = torch.randperm(len(margins), generator=draws)
    hardness = (1 - margins.cpu()).clamp(min=0)
    return drawn[hardness[drawn].argsort(descending=True, stable=True)]
