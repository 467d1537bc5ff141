"""Facts about images: statistics by channel, images of one colour, what tells two sets apart."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from guard.device import threads

CHUNK_VALUES = 2**21
SUMMED_VALUES = 2**20
LEVELS = 256
MIN_STD = 1e-3


def channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in [0, 1] units of uint8 images (N, C, H, W).

    Their last bits are in what every stage writes, so they depend on nothing but x: small sets are
    summed on one thread, as they always were, large ones by exact counts of their levels.
    """
    if x.numel() <= SUMMED_VALUES:
        with threads(1):
            values = x.double().div(LEVELS - 1).transpose(0, 1).flatten(1)
            std = values.std(dim=1, correction=0).clamp(min=MIN_STD)
            return tuple(values.mean(dim=1).tolist()), tuple(std.tolist())
    counts = torch.zeros(x.shape[1], LEVELS, dtype=torch.int64)
    for part in chunks(x):
        for channel, counted in enumerate(counts):
            counted += torch.bincount(part[:, channel].flatten(), minlength=LEVELS)
    moments = [_moments(counted) for counted in counts.tolist()]
    return tuple(mean for mean, _ in moments), tuple(std for _, std in moments)


def _moments(counts: list[int]) -> tuple[float, float]:
    """Mean and standard deviation in [0, 1] units of so many values of each level."""
    number = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level**2 * count for level, count in enumerate(counts))
    scale = (LEVELS - 1) * number
    variance = (number * squares - total**2) / scale**2
    return total / scale, max(math.sqrt(variance), MIN_STD)


def one_coloured(x: Tensor) -> Tensor:
    """Indices of those of the images (N, C, H, W) whose pixels are all the same."""
    blank = [(part == part[..., :1, :1]).flatten(1).all(dim=1) for part in chunks(x)]
    return torch.cat(blank).nonzero().flatten()


def chunks(x: Tensor) -> Sequence[Tensor]:
    """Images (N, …) in parts of a bounded size."""
    parts: Sequence[Tensor] = x.split(max(CHUNK_VALUES // x[:1].numel(), 1))
    return parts


def content_digest(parts: Iterable[Any]) -> str:
    """SHA-256, in hexadecimal, of buffers (bytes, contiguous arrays) and of where each one ends;
    nothing is copied."""
    digest = hashlib.sha256()
    for part in parts:
        view = memoryview(part)
        digest.update(view.nbytes.to_bytes(8, "big"))
        digest.update(view.cast("B") if view.nbytes else b"")
    return digest.hexdigest()
