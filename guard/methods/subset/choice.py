"""The control that needs no distillation: real images, chosen at random or by herding.

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


def pick(stage: Subset, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Choose `ipc` training images of each class."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    if stage.features is None:
        chosen = random_choice(splits, stage.ipc, stage.seed)
    else:
        model = load_model(store.read(stage.features).path, device)
        chosen = herding(splits, stage.ipc, model, device)
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
