"""Real images of each class, and what synthetic images start as."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from guard.data.images import Splits, load_images
from guard.errors import DataError
from guard.models.input_layer import InputLayer
from guard.seeding import derive, generator


def random_choice(splits: Splits, ipc: int, seed: int) -> Tensor:
    """Indices (K, ipc) of training images, drawn without replacement."""
    draws = generator(seed, "subset")
    rows = []
    for members in class_members(splits, ipc):
        rows.append(members[torch.randperm(len(members), generator=draws)][:ipc])
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
    init: str, splits: Splits, ipc: int, layer: InputLayer, seed: int, device: torch.device
) -> Tensor:
    """Where optimisation starts, behind the input layer, with images in [0, 1]: (K, ipc, C, H, W).

    noise: N(0, 1). real: images of each class, drawn by seed; DataError if one has fewer.
    """
    spec = splits.spec
    shape = (spec.num_classes, ipc, spec.channels, spec.image_size, spec.image_size)
    if init == "real":
        chosen = random_choice(splits, ipc, derive(seed, "initial"))
        u = layer(load_images(splits.train, chosen.flatten(), device))
    else:
        u = torch.randn(shape, generator=generator(seed, "initial")).to(device).flatten(0, 1)
    return layer.project(u).view(shape)
