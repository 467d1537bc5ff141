"""Several small images as one, and one as several.

Images are (n, C, H, H), square, and k by k smaller ones of H/k pixels each, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.data.augment import resized_crop
from guard.errors import DataError


def check_tiles(field: str, k: int, size: int) -> None:
    """Raises DataError, in the name of a field, for images that do not divide."""
    if size % k:
        raise DataError(f"{field}: images of {size} px do not divide into {k} by {k}")


def resized(x: Tensor, size: int) -> Tensor:
    """Images x (n, C, h, h) as (n, C, size, size): bilinear, a smaller one without aliasing. Not to
    be differentiated."""
    found: Tensor = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return found.clamp(0, 1)


def tiled(small: Tensor, k: int) -> Tensor:
    """Images (n, C, k·s, k·s), each of k² smaller ones (n·k², C, s, s)."""
    grid: Tensor = small.unflatten(0, (-1, k, k))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def enlarged(x: Tensor, k: int) -> Tensor:
    """The k² parts of each image x (n, C, H, H), enlarged bilinearly to its size: (n, k², C, H, H).
    Differentiable, with a gradient that is deterministic on every device."""
    if k == 1:
        return x[:, None]
    side = x.shape[-1] // k
    corners = [(row * side, column * side) for row in range(k) for column in range(k)]
    windows = torch.tensor([(top, left, side, side) for top, left in corners])
    return torch.stack([resized_crop(x, window[None]) for window in windows], dim=1)


def parts_of_set(rows: Tensor, num_classes: int, k: int) -> Tensor:
    """Of a set's images (n·K, C, H, H) the k² parts of each, enlarged; of what belongs to images
    (n·K, …), each part's. What is of number i·K + c gives (i·k² + part)·K + c: (n·k²·K, …)."""
    parts = enlarged(rows, k) if rows.ndim == 4 else rows[:, None].expand(-1, k * k, -1)
    grid: Tensor = parts.unflatten(0, (-1, num_classes))
    return grid.transpose(1, 2).flatten(0, 2)
