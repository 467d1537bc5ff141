"""Explicit randomness: every draw comes from a generator named by a seed and labels.

Generators live on the CPU, so the same seed draws the same numbers whatever the device.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that is a pure function of `seed` and the labels."""
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, *labels))


@contextlib.contextmanager
def fenced(seed: int, *labels: str | int) -> Iterator[None]:
    """Seed the global generators inside the block and restore them after it, on every device.

    For code that draws from the global RNG or reseeds it: weight initialisation, torchattacks.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, *labels))
        yield
