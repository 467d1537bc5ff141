"""RDED's work: crops of real images, scored by a teacher and put together.

Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024 (arXiv 2312.03526).
Images are H by H pixels; k by k crops of H/k pixels make one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from guard.artifacts import ArtifactStore
from guard.config import RegularizerConfig
from guard.data.datasets import load_data
from guard.data.images import Splits
from guard.data.tiles import check_tiles, resized, tiled
from guard.device import setup
from guard.distilled import save_part
from guard.errors import DataError
from guard.methods.rded import Crops, Mosaic
from guard.methods.rded.dynamics import difficulties
from guard.methods.start import class_members
from guard.models.networks import Classifier, folded
from guard.models.precision import as_fast_as
from guard.models.saving import load_model
from guard.seeding import generator
from guard.training.losses import attack_batch, margins

IMAGES_AT_ONCE = 100


def compose(stage: Mosaic, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Choose the crops of each class and tile them. Raises DataError for a class with too few
    images, or images that do not divide into tiles."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    teacher = as_fast_as(folded(load_model(store.read(stage.teacher).path, device)), stage.compute)
    hardness = None
    if stage.dynamics is not None:
        file = store.read(stage.dynamics).path / "dynamics.safetensors"
        hardness = difficulties(load_file(file)["confidences"], stage.crops.deviation_epochs)
    choice = Choice(
        config=stage.crops,
        splits=splits,
        teacher=teacher,
        hardness=hardness,
        eps=stage.eps,
        seed=stage.seed,
        device=device,
    )
    images, score = choice.images(stage.ipc)
    save_part(folder, images, splits.spec)
    return {"metrics": {f"crop_{stage.crops.score}": score}}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which crops a teacher chooses."""

    config: Crops
    splits: Splits
    teacher: Classifier
    """In evaluation mode."""
    hardness: Tensor | None
    """Of every training image, (N,); None: candidates are drawn."""
    eps: float
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        check_tiles("tiles", self.config.tiles, self.splits.spec.image_size)

    def images(self, ipc: int) -> tuple[Tensor, float]:
        """Images (ipc, K, C, H, H) in [0, 1], and the mean score of their crops. Those of a smaller
        ipc are a prefix, while the candidates suffice for both."""
        needed, rows, total = ipc * self.config.tiles**2, [], 0.0
        for label, members in enumerate(class_members(self.splits, ipc)):
            if len(members) < needed:
                raise DataError(
                    f"ipc: class {label} has {len(members)} training images, and takes a crop of "
                    f"each of {needed} for ipc = {ipc}"
                )
            draws = generator(self.seed, "crops", label)
            crops, scores = self.easiest(self.candidates(members, ipc, draws), label, draws)
            drawn = self.hardness is None
            order = ranked(scores, self.config.pick) if drawn else torch.arange(len(scores))
            chosen = order[:needed]
            rows.append(tiled(crops[chosen], self.config.tiles))
            total += float(scores[chosen].mean())
        return torch.stack(rows, dim=1), total / len(rows)

    def candidates(self, members: Tensor, ipc: int, draws: torch.Generator) -> Tensor:
        """Of a class's images (n,), those that crops are tried of: drawn, or the hardest of all, as
        many as are needed."""
        if self.hardness is None:
            order = torch.randperm(len(members), generator=draws)
            return members[order][: self.config.pool(ipc)]
        hardest = self.hardness[members].argsort(descending=True, stable=True)
        return members[hardest][: ipc * self.config.tiles**2]

    def easiest(
        self, candidates: Tensor, label: int, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The crop of each candidate (n,) that the teacher finds easiest, (n, C, H/k, H/k), and its
        score (n,)."""
        config, size = self.config, self.splits.spec.image_size
        shape = (len(candidates), config.crops)
        windows = square_windows(shape, config.crop_scale, size, draws)
        found, scores = [], []
        for first in range(0, len(candidates), IMAGES_AT_ONCE):
            rows = slice(first, first + IMAGES_AT_ONCE)
            subset = self.splits.train.subset(candidates[rows])
            x = torch.cat([x for x, _ in subset.batches(IMAGES_AT_ONCE, self.device)])
            crops = cut(x, windows[rows], size // config.tiles)
            score = self.scores(crops.flatten(0, 1), label, draws).view(len(x), -1)
            best = score.argmin(dim=1)
            here = torch.arange(len(x))
            found.append(crops[here, best].cpu())
            scores.append(score[here, best].cpu())
        return torch.cat(found), torch.cat(scores)

    def scores(self, crops: Tensor, label: int, draws: torch.Generator) -> Tensor:
        """How hard crops (n, C, s, s) of a class are for the teacher, (n,)."""
        x = self.framed(crops)
        y = torch.full((len(x),), label, device=x.device)
        if self.config.attack_steps:
            attack = RegularizerConfig(kind="adversarial", steps=self.config.attack_steps)
            x = attack_batch(self.teacher, x, y, attack, self.eps, draws)
        with torch.no_grad():
            logits = self.teacher(x)
        if self.config.score == "margin":
            return -margins(logits, y)
        return F.cross_entropy(logits, y, reduction="none")

    def framed(self, crops: Tensor) -> Tensor:
        """Crops (n, C, s, s) in the middle of images (n, C, H, H) that are zero to the network
        around them."""
        spec, side = self.splits.spec, crops.shape[-1]
        if side == spec.image_size:
            return crops
        shape = (1, spec.channels, spec.image_size, spec.image_size)
        nothing = self.teacher.normalize.inverse(torch.zeros(shape, device=crops.device))
        framed = nothing.repeat(len(crops), 1, 1, 1)
        first = (spec.image_size - side) // 2
        framed[..., first : first + side, first : first + side] = crops
        return framed


def ranked(scores: Tensor, pick: str) -> Tensor:
    """Indices of scores (n,) in the order in which crops are taken: from the lowest, or from the
    median to both sides."""
    order = scores.argsort(stable=True)
    if pick == "easiest":
        return order
    ranks = torch.arange(len(order))
    return order[(ranks - (len(order) - 1) // 2).abs().argsort(stable=True)]


def square_windows(
    shape: tuple[int, ...], min_scale: float, size: int, draws: torch.Generator
) -> Tensor:
    """Square windows in an image of `size` pixels, whole numbers (*shape, 3) as top, left, side:
    area uniform in [min_scale, 1] of the image, place uniform."""
    uniform = torch.rand(*shape, 3, generator=draws, dtype=torch.float64)
    area = min_scale + (1 - min_scale) * uniform[..., 2:]
    side = (area.sqrt() * size).round().clamp(min=1)
    corner = (uniform[..., :2] * (size - side + 1)).floor()
    return torch.cat([corner, side], dim=-1).long()


def cut(x: Tensor, windows: Tensor, size: int) -> Tensor:
    """The windows (n, m, 3) of images x (n, C, H, H), resized: (n, m, C, size, size)."""
    return torch.stack(
        [
            torch.cat(
                [
                    resized(image[None, :, top : top + side, left : left + side], size)
                    for top, left, side in own.tolist()
                ]
            )
            for image, own in zip(x, windows, strict=True)
        ]
    )
