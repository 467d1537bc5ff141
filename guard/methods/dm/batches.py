"""Which real images of a class are matched in an iteration: drawn, or the hardest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guard.data.images import ImageSet, load_images
from guard.methods.dm.losses import hardest_first
from guard.methods.start import some
from guard.models.networks import Classifier
from guard.training.losses import TrainingLoss, margins

RANKED_AT_ONCE = 500


@dataclass(kw_only=True)
class Batches:
    """Batches of real images, class by class."""

    members: Sequence[Tensor]
    """Indices (n,) of each class's images."""
    images: ImageSet
    batch_size: int
    hardest_first: bool
    attack: TrainingLoss
    device: torch.device

    def __post_init__(self) -> None:
        self.orders: list[Tensor] = [own.clone() for own in self.members]

    def of(
        self, model: Classifier, label: int, iteration: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) of a class and their labels (B,); the last batch of a pass from the
        hardest may be smaller. model: ranks the class, at the beginning of a pass."""
        own = self.members[label]
        size = min(self.batch_size, len(own))
        if not self.hardest_first:
            chosen = some(own, size, draws)
        else:
            position = iteration % -(-len(own) // size)
            if position == 0:
                self.orders[label] = own[self.ranked(model, label, draws)]
            chosen = self.orders[label][position * size :][:size]
        x = load_images(self.images, chosen, self.device)
        return x, torch.full((len(x),), label, device=self.device)

    def ranked(self, model: Classifier, label: int, draws: torch.Generator) -> Tensor:
        """The class's images from the hardest, as indices among its members."""
        found = []
        subset = self.images.subset(self.members[label])
        for x, y in subset.batches(RANKED_AT_ONCE, self.device):
            attacked = self.attack.attacked(model, x, y, draws)
            with torch.no_grad():
                found.append(margins(model(x if attacked is None else attacked), y))
        return hardest_first(torch.cat(found), draws)

    def state_dict(self) -> dict[str, Any]:
        return {"orders": self.orders}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.orders = list(state["orders"])
