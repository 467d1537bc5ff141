"""The control that needs no distillation: real images, chosen at random or by herding.

The choice for a smaller IPC is a prefix of that for a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guard.artifacts import ArtifactStore, Stage
from guard.data.datasets import stage_data
from guard.data.images import Splits, load_images
from guard.device import setup
from guard.distilled import save_part
from guard.errors import DataError
from guard.models.networks import penultimate
from guard.models.saving import load_model
from guard.seeding import generator


def pick(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Choose `ipc` training images of each class."""
    device = setup(stage)
    splits, ipc = stage_data(stage), stage.config["ipc"]
    if stage.config["selection"] == "random":
        chosen = random_choice(splits, ipc, stage.config["seed"])
    else:
        model = load_model(store.path(stage.inputs["features"]), device)
        chosen = herding(splits, ipc, model, device)
    images = load_images(splits.train, chosen.flatten(), torch.device("cpu"))
    images = images.unflatten(0, chosen.shape)
    save_part(folder, images.transpose(0, 1).contiguous(), splits.spec)
    return {"metrics": {}}


def random_choice(splits: Splits, ipc: int, seed: int) -> Tensor:
    """Indices (K, ipc) of training images, drawn without replacement."""
    draws = generator(seed, "subset")
    rows = []
    for members in class_members(splits, ipc):
        rows.append(members[torch.randperm(len(members), generator=draws)][:ipc])
    return torch.stack(rows)


def class_members(splits: Splits, at_least: int) -> Iterator[Tensor]:
    """Indices of each class's training images. Raises DataError if there are too few."""
    for label in range(splits.spec.num_classes):
        members = (splits.train.y == label).nonzero().flatten()
        if len(members) < at_least:
            raise DataError(
                f"ipc: class {label} has {len(members)} training images, got ipc = {at_least}"
            )
        yield members


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
