"""Real images of each class, what synthetic images start as, and networks before any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from guard.data.images import Splits, load_images
from guard.data.tiles import resized, tiled
from guard.errors import DataError
from guard.models.batchnorm import batchnorms, use_statistics
from guard.models.input_layer import InputLayer
from guard.models.modes import statistics_of
from guard.seeding import derive, generator

IMAGES_FOR_STATISTICS = 16
"""Real images per class that set a BatchNorm network's statistics before it is matched."""


def random_choice(
    splits: Splits, ipc: int, seed: int, count: int | None = None, first: Tensor | None = None
) -> Tensor:
    """Indices (K, ipc) of training images, drawn without replacement; or (K, count), again from the
    first where a class has fewer. first: those (N,) that come before the others."""
    draws = generator(seed, "subset")
    wanted = torch.arange(ipc if count is None else count)
    rows = []
    for members in class_members(splits, ipc):
        order = members[torch.randperm(len(members), generator=draws)]
        if first is not None:
            order = order[(~first[order]).int().argsort(stable=True)]
        rows.append(order[wanted % len(order)])
    return torch.stack(rows)


def class_members(splits: Splits, at_least: int) -> Iterator[Tensor]:
    """Indices (n,) of each class's training images, class by class. Raises DataError if a class has
    too few."""
    for label in range(splits.spec.num_classes):
        members = (splits.train.y == label).nonzero().flatten()
        if len(members) < at_least:
            raise DataError(
                f"ipc: class {label} has {len(members)} training images, got ipc = {at_least}"
            )
        yield members


def initial_images(
    init: str,
    splits: Splits,
    ipc: int,
    layer: InputLayer,
    seed: int,
    device: torch.device,
    partition: int = 1,
    first: Tensor | None = None,
) -> Tensor:
    """Where optimisation starts, behind the input layer, with images in [0, 1]: (K, ipc, C, H, W).

    noise: N(0, 1). real: images of each class, drawn by seed, or with a partition of k tiles of k²
    reduced ones, again from the first where they run out; DataError if a class has fewer than ipc.
    first: which training images (N,) are to be drawn before the others.
    """
    spec = splits.spec
    shape = (spec.num_classes, ipc, spec.channels, spec.image_size, spec.image_size)
    if init == "real":
        small = spec.image_size // partition
        own = derive(seed, "initial")
        chosen = random_choice(splits, ipc, own, ipc * partition**2, first)
        x = load_images(splits.train, chosen.flatten(), device)
        u = layer(x if partition == 1 else tiled(resized(x, small), partition))
    else:
        u = torch.randn(shape, generator=generator(seed, "initial")).to(device).flatten(0, 1)
    return layer.project(u).view(shape)


def some(members: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """So many of the indices (n,), or all where there are fewer, drawn without replacement."""
    return members[torch.randperm(len(members), generator=draws)][:count]


def ready_to_match(
    model: nn.Module,
    splits: Splits,
    members: Sequence[Tensor],
    draws: torch.Generator,
    device: torch.device,
) -> None:
    """Put a network that was not trained into evaluation mode, with BatchNorm statistics of a few
    real images of each class; members: each class's indices (n,)."""
    if batchnorms(model):
        chosen = [some(own, IMAGES_FOR_STATISTICS, draws) for own in members]
        images = load_images(splits.train, torch.cat(chosen), device)
        use_statistics(model, statistics_of(model, images))
    model.eval()
