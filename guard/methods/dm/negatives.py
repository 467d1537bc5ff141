"""What a contrast tells images from: the nearest embeddings of other classes, old ones among them.

e: embeddings (N, F) of a step's images, clean and attacked, with labels y (N,); as many of each of
K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.methods.dm import NegativesConfig


class Negatives:
    """A queue of old embeddings for each class, and the search among them and the step's own."""

    def __init__(self, config: NegativesConfig, num_classes: int, device: torch.device) -> None:
        self.config = config
        self.kept = torch.empty(num_classes, 0, 0, device=device)
        """(K, n, F) of length 1, the oldest first; n is at most `queue`."""

    def of(self, e: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """The cosines (N, k) of e with the nearest embeddings of other classes, differentiable in
        both where they are of this step. Afterwards e belongs to the queue."""
        unit, own = F.normalize(e, dim=1), y
        everything = unit
        if self.kept.numel():
            everything = torch.cat([unit, self.kept.flatten(0, 1)])
            own = torch.cat([y, old_labels(self.kept)])
        found = nearest(unit.detach(), y, everything.detach(), own, self.config, draws)
        self.push(unit.detach(), y)
        cosines: Tensor = unit @ everything.T  # a row's are distinct: their gradients add up to one
        return cosines.gather(1, found)

    def push(self, unit: Tensor, y: Tensor) -> None:
        """Put embeddings (N, F) of length 1 into the queues of their classes."""
        if not self.config.queue:
            return
        new = unit[y.argsort(stable=True)].unflatten(0, (len(self.kept), -1))
        both = torch.cat([self.kept, new], dim=1) if self.kept.numel() else new
        self.kept = both[:, -self.config.queue :].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"].to(self.kept.device)


def old_labels(kept: Tensor) -> Tensor:
    """(K·n,) of queues (K, n, F)."""
    return torch.arange(len(kept), device=kept.device).repeat_interleave(kept.shape[1])


def nearest(
    unit: Tensor,
    y: Tensor,
    others: Tensor,
    labels: Tensor,
    config: NegativesConfig,
    draws: torch.Generator,
) -> Tensor:
    """Rows (N, k) of `others` (M, F) that are nearest to each of `unit` (N, F) by their cosine in a
    random projection, among those with another label; as many as each has where that is less."""
    shape = (unit.shape[1], config.dimensions)
    projection = torch.randn(shape, generator=draws).to(unit)
    ours, theirs = (F.normalize(rows @ projection, dim=1) for rows in (unit, others))
    foreign = y[:, None] != labels
    count = min(config.hardest, int(foreign.sum(dim=1).min()))
    cosines = (ours @ theirs.T).masked_fill(~foreign, -torch.inf)
    return cosines.topk(count, dim=1).indices
