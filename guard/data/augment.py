"""Batch augmentations as pure functions of (images, generator).

x: (B, C, H, W) float in [0, 1] (or in any range for the geometric ones).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guard.config import TrainConfig
from guard.data.dsa import DsaDraw, apply_dsa, draw_dsa, interpolation

MAX_LOG_RATIO = math.log(4 / 3)
CROP_TRIES = 10


class Space(Protocol):
    """What a network sees of pixels: its first layer (`guard.models.input_layer`)."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def inverse(self, u: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """The augmentations of a TrainConfig, with parameters per sample."""

    names: tuple[str, ...]
    crop_scale: float
    dsa_ops: tuple[str, ...]
    shuffle_patches: int
    space: Space

    @classmethod
    def of(cls, config: TrainConfig, space: Space) -> Augmenter:
        return cls(
            names=config.augment,
            crop_scale=config.crop_scale,
            dsa_ops=config.dsa_ops,
            shuffle_patches=config.shuffle_patches,
            space=space,
        )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x: (B, C, H, W) in pixels; the color operation of dsa may leave [0, 1]."""
        if "shuffle" in self.names:
            x = shuffled(x, self.shuffle_patches, generator)
        if "resized-crop" in self.names:
            height, width = x.shape[-2:]
            windows = crop_windows(len(x), self.crop_scale, (height, width), generator)
            x = resized_crop(x, windows)
        if "crop" in self.names:
            x = padded_crop(x, max(x.shape[-1] // 8, 1), generator)
        if "flip" in self.names:
            x = flip(x, generator)
        if "dsa" in self.names:
            x = in_space(x, draw_dsa(self.dsa_ops, len(x), generator), self.space)
        return x


def in_space(x: Tensor, draw: DsaDraw, space: Space) -> Tensor:
    """DSA of pixels x (B, C, H, W) as a network sees them: in deviations of each channel around its
    mean (DSA's code), or whitened (MTT's with ZCA)."""
    return space.inverse(apply_dsa(space(x), draw))


def flip(x: Tensor, generator: torch.Generator, *, together: bool = False) -> Tensor:
    """Mirror each image of x (B, C, H, W), or all `together`, left to right with probability
    1/2."""
    mirrored = torch.rand(1 if together else len(x), generator=generator).lt(0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def padded_crop(x: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Zero-pad images x (B, C, H, W) by `pad` pixels on each side and cut a window of the old size,
    one per image."""
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    offsets = torch.randint(0, 2 * pad + 1, (2, len(x)), generator=generator).to(x.device)
    rows = offsets[0][:, None] + torch.arange(height, device=x.device)
    columns = offsets[1][:, None] + torch.arange(width, device=x.device)
    return _pixels(padded, rows, columns)


def shuffled(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Images x (B, C, H, W) of k by k patches, with the rows and the columns of patches of each in
    a new order, as RDED's code has it (arXiv 2312.03526)."""
    rows, columns = (_shuffled(len(x), size, k, generator).to(x.device) for size in x.shape[-2:])
    return _pixels(x, rows, columns)


def _shuffled(count: int, size: int, k: int, generator: torch.Generator) -> Tensor:
    """Places (count, size) of a line of so many pixels, whose k parts are in a new order."""
    places = torch.rand(count, k, generator=generator)
    return places[:, torch.arange(size) * k // size].argsort(dim=1, stable=True)


def _pixels(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels of each image x (B, C, H, W) at its rows (B, h) and columns (B, w): (B, C, h, w),
    contiguous."""
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return x[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def roll(x: Tensor, jitter: int, generator: torch.Generator, *, two_sided: bool = False) -> Tensor:
    """Roll the whole batch by one offset per axis from 0..jitter (SRe2L's jitter), or from
    -jitter..jitter."""
    lowest = -jitter if two_sided else 0
    down, right = torch.randint(lowest, jitter + 1, (2,), generator=generator).tolist()
    return x.roll((down, right), dims=(-2, -1))


def crop_windows(
    count: int, min_scale: float, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Windows of torchvision's RandomResizedCrop in an image of `size` (height, width) pixels:
    whole numbers (count, 4) as top, left, height, width. Area uniform in [min_scale, 1] of the
    image, width / height log-uniform in [3/4, 4/3], both drawn again, up to ten times, where the
    window does not fit; then the middle, as large as a ratio in that range lets it be.
    """
    height, width = size
    uniform = torch.rand(2, CROP_TRIES + 1, count, generator=generator, dtype=torch.float64)
    area = height * width * (min_scale + (1 - min_scale) * uniform[0, 1:])
    ratio = torch.exp(MAX_LOG_RATIO * (2 * uniform[1, 1:] - 1))
    tried = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2).round()
    fits = ((tried > 0) & (tried <= torch.tensor(size))).all(dim=2)
    found = fits.any(dim=0)[:, None]
    first = tried[fits.int().argmax(dim=0), torch.arange(count)]
    middle = torch.tensor([min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))])
    window = torch.where(found, first, middle)
    room = torch.tensor(size) - window
    corner = torch.where(found, (uniform[:, 0].T * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner, window], dim=1).long()


def resized_crop(x: Tensor, windows: Tensor) -> Tensor:
    """Cut each window (1 or B of them, see `crop_windows`) and resize it bilinearly to the old
    size. Two small matrix products, so its gradient is deterministic on every device."""
    height, width = x.shape[-2:]
    windows = windows.to(x)
    rows = _interpolation(windows[:, 0], windows[:, 2], height)
    columns = _interpolation(windows[:, 1], windows[:, 3], width)
    return rows[:, None] @ x @ columns[:, None].mT


def _interpolation(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(N, size, size) matrices that resample `length` pixels from `start` of a line of `size`."""
    pixels = torch.arange(size, device=start.device)
    position = length[:, None] * ((pixels + 0.5) / size) - 0.5
    return interpolation(start[:, None] + torch.minimum(position.clamp(min=0), length[:, None] - 1))


def mixing_weight(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), the weight that an image keeps in MixUp and CutMix."""
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    return float(gammas[0] / gammas.sum())


def mix(
    x: Tensor, kind: str, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899) of a batch with a permutation of it.

    Returns the mixed images, the permutation and the exact weight of the unpermuted label.
    """
    permutation = torch.randperm(len(x), generator=generator)
    weight = mixing_weight(alpha, generator)
    other = x[permutation.to(x.device)]
    if kind == "mixup":
        return weight * x + (1 - weight) * other, permutation, weight
    height, width = x.shape[-2:]
    side = math.sqrt(1 - weight)
    center = torch.rand(2, generator=generator).tolist()
    top, bottom = _span(center[0], side, height)
    left, right = _span(center[1], side, width)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed, permutation, 1 - (bottom - top) * (right - left) / (height * width)


def _span(center: float, side: float, size: int) -> tuple[int, int]:
    start, stop = (center - side / 2) * size, (center + side / 2) * size
    return max(round(start), 0), min(round(stop), size)
