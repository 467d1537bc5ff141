"""Data sets that tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from guard.config import DataConfig
from helpers import CPU, draws

CLASSES = ("cat", "dog")


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    good = {
        "x_train": pixels(0, 12, 6, 6),
        "y_train": np.arange(12) % 3,
        "x_test": pixels(1, 6, 6, 6),
        "y_test": np.arange(6) % 3,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def npz(folder: Path, **changes: Any) -> DataConfig:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays(**changes))
    return DataConfig(name="npz", path=str(path), validation_fraction=0.5)


def write_image(path: Path, seed: int, size: int = 6) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels(seed, size, size, 3)
    Image.fromarray(image).save(path)
    return image


def write_tree(
    root: Path,
    held_out: str = "val",
    per_class: int = 4,
    classes: tuple[str, ...] = CLASSES,
    suffix: str = "png",
) -> np.ndarray:
    """A tree of PNG files; the training images in order, (N, H, W, 3)."""
    written = [
        write_image(root / "train" / name / f"{number}.{suffix}", 10 * label + number)
        for label, name in enumerate(classes)
        for number in range(per_class)
    ]
    for label, name in enumerate(classes):
        for number in range(2):
            write_image(root / held_out / name / f"{number}.{suffix}", 100 + 10 * label + number)
    return np.stack(written)


def tree_config(root: Path, **changes: Any) -> DataConfig:
    values = {"name": "folder", "path": str(root), "validation_fraction": 0.25}
    return DataConfig(**{**values, **changes})


def all_of(images: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*images.batches(5, CPU), strict=True)
    return torch.cat(x), torch.cat(y)


def as_set(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def noise(count: int, channels: int = 3, size: int = 6) -> torch.Tensor:
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws(9))
