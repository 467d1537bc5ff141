"""Batch augmentations as pure functions of (images, generator).

x: (B, C, H, W) float in [0, 1] (or in any range for the geometric ones).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guard.config import TrainConfig
from guard.data.dsa import DsaDraw, apply_dsa, draw_dsa
from guard.data.spec import ImageSpec

MAX_LOG_RATIO = math.log(4 / 3)


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """The augmentations of a TrainConfig, with parameters per sample."""

    names: tuple[str, ...]
    crop_scale: float
    dsa_ops: tuple[str, ...]
    spec: ImageSpec

    @classmethod
    def of(cls, config: TrainConfig, spec: ImageSpec) -> Augmenter:
        return cls(
            names=config.augment, crop_scale=config.crop_scale, dsa_ops=config.dsa_ops, spec=spec
        )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x: (B, C, H, W) in pixels; the color operation of dsa may leave [0, 1]."""
        if "resized-crop" in self.names:
            x = resized_crop(x, crop_windows(len(x), self.crop_scale, generator))
        if "crop" in self.names:
            x = padded_crop(x, max(x.shape[-1] // 8, 1), generator)
        if "flip" in self.names:
            x = flip(x, generator)
        if "dsa" in self.names:
            x = in_deviations(x, draw_dsa(self.dsa_ops, len(x), generator), self.spec)
        return x


def in_deviations(x: Tensor, draw: DsaDraw, spec: ImageSpec) -> Tensor:
    """DSA of pixels x (B, C, H, W), in units of the data set's channel deviations around its mean:
    what DSA's code sees, whatever the network's first layer."""
    mean = torch.tensor(spec.mean).view(1, -1, 1, 1).to(x)
    std = torch.tensor(spec.std).view(1, -1, 1, 1).to(x)
    return apply_dsa((x - mean) / std, draw) * std + mean


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of x (B, C, H, W) left to right with probability 1/2."""
    mirrored = torch.rand(len(x), generator=generator).lt(0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def padded_crop(x: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Zero-pad images x (B, C, H, W) by `pad` pixels on each side and cut a window of the old size,
    one per image."""
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    offsets = torch.randint(0, 2 * pad + 1, (2, len(x)), generator=generator).to(x.device)
    rows = offsets[0][:, None] + torch.arange(height, device=x.device)
    columns = offsets[1][:, None] + torch.arange(width, device=x.device)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def roll(x: Tensor, jitter: int, generator: torch.Generator, *, two_sided: bool = False) -> Tensor:
    """Roll the whole batch by one offset per axis from 0..jitter (SRe2L's jitter), or from
    -jitter..jitter."""
    lowest = -jitter if two_sided else 0
    down, right = torch.randint(lowest, jitter + 1, (2,), generator=generator).tolist()
    return x.roll((down, right), dims=(-2, -1))


def crop_windows(count: int, min_scale: float, generator: torch.Generator) -> Tensor:
    """Windows as of torchvision's RandomResizedCrop in relative coordinates: (count, 4) as
    top, left, height, width in [0, 1]. Area uniform in [min_scale, 1]; aspect ratio log-uniform in
    [3/4, 4/3], as far as a window of that area and ratio fits into the image."""
    uniform = torch.rand(4, count, generator=generator)
    area = min_scale + (1 - min_scale) * uniform[0]
    widest = (-area.log()).clamp(max=MAX_LOG_RATIO)
    ratio = torch.exp(widest * (2 * uniform[1] - 1))
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    return torch.stack([uniform[2] * (1 - height), uniform[3] * (1 - width), height, width], dim=1)


def resized_crop(x: Tensor, windows: Tensor) -> Tensor:
    """Cut each window (1 or B of them, see `crop_windows`) and resize it bilinearly to the old
    size. Two small matrix products, so its gradient is deterministic on every device."""
    height, width = x.shape[-2:]
    windows = windows.to(x)
    rows = _interpolation(windows[:, 0], windows[:, 2], height)
    columns = _interpolation(windows[:, 1], windows[:, 3], width)
    return rows[:, None] @ x @ columns[:, None].mT


def _interpolation(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(N, size, size) matrices that resample [start, start + length] of a line of `size` pixels."""
    centers = (torch.arange(size, device=start.device) + 0.5) / size
    position = (start[:, None] + length[:, None] * centers) * size - 0.5
    position = position.clamp(0, size - 1)
    pixels = torch.arange(size, device=start.device)
    return (1 - (position[:, :, None] - pixels).abs()).clamp(min=0)


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
