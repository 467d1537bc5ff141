"""The control that needs no distillation: real images, chosen at random, by herding or as centers.

The choice for a smaller IPC is a prefix of that for a larger one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.data.datasets import load_data
from guard.data.images import Splits, load_images
from guard.device import setup
from guard.distilled import save_part
from guard.methods.start import class_members, random_choice
from guard.methods.subset import Subset
from guard.models.networks import penultimate
from guard.models.saving import load_model
from guard.seeding import generator


def pick(stage: Subset, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Choose `ipc` training images of each class."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    if stage.features is not None:
        model = load_model(store.read(stage.features).path, device)
        chosen = herding(splits, stage.ipc, model, device)
    elif stage.selection == "k-center":
        chosen = k_center(splits, stage.ipc, stage.seed, device)
    else:
        chosen = random_choice(splits, stage.ipc, stage.seed)
    images = load_images(splits.train, chosen.flatten(), torch.device("cpu"))
    images = images.unflatten(0, chosen.shape)
    save_part(folder, images.transpose(0, 1).contiguous(), splits.spec)
    return {"metrics": {}}


def herding(splits: Splits, ipc: int, model: nn.Module, device: torch.device) -> Tensor:
    """Indices (K, ipc): each next image brings the mean of the chosen features, of unit length,
    closest to the class mean (iCaRL, arXiv 1611.07725, Algorithm 4)."""
    rows = []
    for members in class_members(splits, ipc):
        batches = splits.train.subset(members).batches(500, device)
        features = torch.cat([penultimate(model, x).cpu() for x, _ in batches])
        rows.append(members[herd(nn.functional.normalize(features, dim=1), ipc)])
    return torch.stack(rows)


def herd(features: Tensor, count: int) -> Tensor:
    """Greedy choice of `count` of the rows of (N, F), as indices."""
    mean, total = features.mean(dim=0), torch.zeros_like(features[0])
    left = torch.ones(len(features), dtype=torch.bool)
    chosen = []
    for number in range(1, count + 1):
        distances = ((total + features) / number - mean).norm(dim=1)
        best = int(distances.masked_fill(~left, torch.inf).argmin())
        left[best] = False
        total = total + features[best]
        chosen.append(best)
    return torch.tensor(chosen)


def k_center(splits: Splits, ipc: int, seed: int, device: torch.device) -> Tensor:
    """Indices (K, ipc): the first image of a class is drawn, each next one is the farthest from
    those that are chosen, in L2 of pixels."""
    draws, rows = generator(seed, "k-center"), []
    for members in class_members(splits, ipc):
        pixels = load_images(splits.train, members, device).flatten(1)
        first = int(torch.randint(len(members), (), generator=draws))
        rows.append(members[farthest_first(pixels, ipc, first)])
    return torch.stack(rows)


def farthest_first(points: Tensor, count: int, first: int) -> Tensor:
    """`count` of the rows of (N, F), as indices: `first`, then each time the one whose distance to
    the nearest chosen row is largest, of equal ones the first; none twice."""
    nearest = torch.full((len(points),), torch.inf, device=points.device)
    chosen = [first]
    for _ in range(count - 1):
        distances = (points - points[chosen[-1]]).square().sum(dim=1)
        nearest = torch.minimum(nearest, distances)
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)
