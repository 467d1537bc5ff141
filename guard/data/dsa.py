"""Differentiable siamese augmentation (Zhao and Bilen, ICML 2021, arXiv 2102.08259).

A draw is one operation with its parameters, so that the same one can meet real and synthetic
images. Every operation is differentiable in the images, with a gradient that is deterministic on
every device, and none of them clamps.

x: (B, C, H, W) float in any range; zeros come in from outside of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guard.config import DSA_OPS

MAX_PARAMETERS = 3
MAX_SCALE = 1.2
MAX_ANGLE = math.radians(15)


@dataclass(frozen=True)
class DsaDraw:
    """One operation of DSA_OPS and its randomness, for each image of a batch or for all alike.

    uniform: (count, 3) in [0, 1), on the CPU; an operation reads as many columns as it needs.
    """

    op: str
    uniform: Tensor

    @property
    def count(self) -> int:
        return len(self.uniform)


def draw_dsa(ops: Sequence[str], count: int, generator: torch.Generator) -> DsaDraw:
    """Draw one of `ops`, each as likely, and the parameters for `count` images.

    Advances the generator equally whichever operation it draws. Raises ValueError if `ops` is
    empty or names one that is not in DSA_OPS.
    """
    if not ops or not set(ops) <= set(DSA_OPS):
        raise ValueError(f"ops must name some of {', '.join(DSA_OPS)}; got {list(ops)}")
    op = ops[int(torch.randint(len(ops), (), generator=generator))]
    return DsaDraw(op, torch.rand(count, MAX_PARAMETERS, generator=generator))


def apply_dsa(x: Tensor, draw: DsaDraw) -> Tensor:
    """Apply to images x (B, C, H, W) a draw for one image, to all alike (siamese), or a draw for B
    images, one by one. Raises ValueError for a draw of another size."""
    if draw.count not in (1, len(x)):
        raise ValueError(f"a draw for {draw.count} images does not fit a batch of {len(x)}")
    operations = {
        "color": _color,
        "crop": _crop,
        "cutout": _cutout,
        "flip": _flip,
        "scale": _scale,
        "rotate": _rotate,
    }
    return operations[draw.op](x, draw.uniform.to(x.device))


def _color(x: Tensor, uniform: Tensor) -> Tensor:
    """Brightness + U(-0.5, 0.5), then saturation × U(0, 2), then contrast × U(0.5, 1.5)."""
    brightness, saturation, contrast = uniform.to(x)[:, :, None, None, None].unbind(dim=1)
    x = x + (brightness - 0.5)
    gray = x.mean(dim=1, keepdim=True)
    x = gray + 2 * saturation * (x - gray)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (0.5 + contrast) * (x - mean)


def _crop(x: Tensor, uniform: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side in each direction."""
    height, width = x.shape[-2:]
    return _resample(x, _shifted(uniform[:, 0], height), _shifted(uniform[:, 1], width))


def _shifted(uniform: Tensor, size: int) -> Tensor:
    reach = _half_up(size / 8)
    shift = (uniform * (2 * reach + 1)).floor() - reach
    return shift[:, None] + torch.arange(size, device=uniform.device)


def _cutout(x: Tensor, uniform: Tensor) -> Tensor:
    """Zero a square of half the side around a point anywhere in the image."""
    height, width = x.shape[-2:]
    rows, columns = _covered(uniform[:, 0], height), _covered(uniform[:, 1], width)
    return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)


def _covered(uniform: Tensor, size: int) -> Tensor:
    """(N, size) mask of a stretch of size / 2, centred on a pixel or, if even, between two."""
    side = _half_up(size / 2)
    start = (uniform * (size + 1 - side % 2)).floor()[:, None] - side // 2
    pixels = torch.arange(size, device=uniform.device)
    return (start <= pixels) & (pixels < start + side)


def _flip(x: Tensor, uniform: Tensor) -> Tensor:
    """Mirror left to right with probability 1/2."""
    return torch.where(uniform[:, 0, None, None, None] < 0.5, x.flip(-1), x)


def _scale(x: Tensor, uniform: Tensor) -> Tensor:
    """Resize a centred window of U(1/1.2, 1.2) times each side to the old size."""
    factors = 1 / MAX_SCALE + (MAX_SCALE - 1 / MAX_SCALE) * uniform[:, :, None]
    height, width = x.shape[-2:]
    rows = factors[:, 0] * _from_center(height, x.device) + (height - 1) / 2
    columns = factors[:, 1] * _from_center(width, x.device) + (width - 1) / 2
    return _resample(x, rows, columns)


def _rotate(x: Tensor, uniform: Tensor) -> Tensor:
    """Rotate about the centre by U(-15, 15) degrees."""
    angle = MAX_ANGLE * (2 * uniform[:, 0, None, None] - 1)
    height, width = x.shape[-2:]
    down, right = _from_center(height, x.device)[:, None], _from_center(width, x.device)
    rows = angle.cos() * down + angle.sin() * right + (height - 1) / 2
    columns = angle.cos() * right - angle.sin() * down + (width - 1) / 2
    return _sample(x, rows, columns)


def _half_up(value: float) -> int:
    return int(value + 0.5)


def _from_center(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, device=device) - (size - 1) / 2


def _resample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values of x on a grid of pixel positions, rows (N, H) by columns (N, W); N is 1 or
    B. Two small matrix products."""
    return interpolation(rows).to(x)[:, None] @ x @ interpolation(columns).to(x)[:, None].mT


def interpolation(position: Tensor) -> Tensor:
    """(N, size, size) matrices that resample a line of pixels at positions (N, size)."""
    pixels = torch.arange(position.shape[1], device=position.device)
    return (1 - (position[:, :, None] - pixels).abs()).clamp(min=0)


def _sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values of x at pixel positions rows and columns, each (N, H, W); N is 1 or B.

    Four gathers, because the gradient of grid_sample differs from run to run on CUDA.
    """
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    result = torch.zeros_like(x)
    for row, row_weight in _neighbours(rows, height):
        for column, column_weight in _neighbours(columns, width):
            values = padded[batch, :, row, column].permute(0, 3, 1, 2)
            result = result + (row_weight * column_weight).to(x)[:, None] * values
    return result


def _neighbours(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Indices into a line padded by one zero on each side, and weights, of the pixels before and
    after a position."""
    position = position.clamp(-1, size)
    before = position.floor().clamp(max=size - 1)
    index, weight = before.long() + 1, position - before
    return [(index, 1 - weight), (index + 1, weight)]
