"""The batches that a student sees.

They (order, augmentation, mixing) are a pure function of (recipe, seed, epoch), or of (recipe,
seed, number) in a pool, so whoever labels them and the student replay the same ones and only logits
are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guard.config import StudentConfig
from guard.data.augment import Augmenter, Space, mix
from guard.seeding import derive, generator

RESIDENT_BYTES = 2**31


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the batches that a student sees."""

    seed: int
    batch_size: int
    augment: Augmenter
    mix: str
    mix_alpha: float

    @classmethod
    def of(cls, config: StudentConfig, space: Space) -> Recipe:
        """space: what the student sees of pixels."""
        augmenter = Augmenter.of(config.train, space)
        return cls(
            seed=config.seed,
            batch_size=config.train.batch_size,
            augment=augmenter,
            mix=config.mix,
            mix_alpha=config.mix_alpha,
        )

    def batches(
        self, images: Tensor, targets: Tensor, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The augmented batches of an epoch: images (b, C, H, W) and, mixed like them, the
        distributions (b, K) of `targets` (N, K), on the device of `targets`."""
        draws = generator(self.seed, "student-batches", epoch)
        for indices in torch.randperm(len(images), generator=draws).split(self.batch_size):
            yield self.batch(images, targets, indices, draws)

    def batch(
        self, images: Tensor, targets: Tensor, indices: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One augmented batch, of the images and targets of these indices (b,)."""
        device = targets.device
        rows = images[indices.to(images.device)].to(device)
        x, target = self.augment(rows, draws), targets[indices.to(device)]
        if self.mix != "none":
            x, order, weight = mix(x, self.mix, self.mix_alpha, draws)
            target = weight * target + (1 - weight) * target[order.to(x.device)]
        return x, target

    def pool(self, count: int, budget: int) -> tuple[list[Tensor], list[int]]:
        """The images (b,) that each of `budget` batches is made of, as often as one another as far
        as that goes, of `count`; and the seed that each is augmented and mixed by."""
        rows: list[Tensor] = []
        while len(rows) < budget:
            order = torch.randperm(count, generator=generator(self.seed, "pool-order", len(rows)))
            rows += order.split(self.batch_size)
        return rows[:budget], [derive(self.seed, "pool", number) for number in range(budget)]


def replayed(
    recipe: Recipe, images: Tensor, targets: Tensor, rows: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """One batch of a pool, as `Recipe.batches` gives it."""
    return recipe.batch(images, targets, rows, torch.Generator().manual_seed(seed))


def pool_order(seed: int, budget: int, per_epoch: int, epoch: int) -> Sequence[int]:
    """Which batches of a pool an epoch of so many batches takes: all of them once, in a new order,
    before any a second time."""
    first = epoch * per_epoch
    passes = range(first // budget, (first + per_epoch - 1) // budget + 1)
    orders = [torch.randperm(budget, generator=generator(seed, "pool-pass", p)) for p in passes]
    start = first - passes[0] * budget
    chosen: list[int] = torch.cat(orders)[start : start + per_epoch].tolist()
    return chosen


def near(images: Tensor, device: torch.device) -> Tensor:
    """The images (N, C, H, W) on the device, where they are no more than 2 GiB; else where they
    are: in their file, from which batches are read."""
    small = images.numel() * images.element_size() <= RESIDENT_BYTES
    return images.to(device) if small else images
