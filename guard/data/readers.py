"""Files that images come in: .npz arrays and image trees."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guard.data.images import FileImages, ImageSet, TensorImages, in_memory, open_image
from guard.errors import DataError

BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error)
IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A data set as read: the official training and test sets, before the validation split."""

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]


def read_npz(path: Path) -> Raw:
    """Arrays x_train, y_train, x_test, y_test; x is uint8 (N, H, W) or (N, H, W, C). Raises
    DataError, which names the file, for anything else."""
    names = ("x_train", "y_train", "x_test", "y_test")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names if name in file}
    except (OSError, ValueError, EOFError, RuntimeError, *BROKEN_ARCHIVE) as error:
        raise DataError(f"{path}: damaged .npz file ({error})") from None
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path}: has no {missing[0]}; needs {', '.join(names)}")
    sets = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4):
            raise DataError(
                f"{path}: x_{part} must be uint8 (N, H, W[, C]), got {x.dtype} {x.shape}"
            )
        if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
            raise DataError(f"{path}: y_{part} must be {len(x)} integers, got {y.dtype} {y.shape}")
        sets.append(TensorImages(channels_first(x), torch.from_numpy(y.astype(np.int64))))
    if sets[0].x.shape[1:] != sets[1].x.shape[1:] or sets[0].x.shape[2] != sets[0].x.shape[3]:
        shapes = [tuple(part.x.shape) for part in sets]
        raise DataError(f"{path}: images must be square and of one size, got {shapes}")
    num_classes = 1 + max((int(part.y.max()) for part in sets if len(part)), default=0)
    return Raw(
        train=sets[0], test=sets[1], class_names=tuple(str(label) for label in range(num_classes))
    )


def channels_first(x: np.ndarray) -> Tensor:
    """(N, H, W) or (N, H, W, C) to a contiguous (N, C, H, W) tensor."""
    images = torch.from_numpy(x)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def read_tree(
    root: Path, size: int, channels: int, max_tensor_gib: float, center_crop: float = 1.0
) -> Raw:
    """An ImageFolder tree: train/<class>/…, and test/ or val/ likewise; Tiny ImageNet's flat val/
    with val_annotations.txt too. The first of test/ and val/ that is there is the test set.

    size: side in pixels, or 0 for that of the first image; center_crop: share of an image's short
    side that it keeps. Sets of more than `max_tensor_gib` are streamed.

    Raises DataError, which names the folder, for a tree without classes, images or a held-out half.
    """
    held_out = next((root / name for name in ("test", "val") if _has_labels(root / name)), None)
    if held_out is None:
        raise DataError(f"data.path: {root} needs val/ or test/ with a folder a class")
    classes = sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir())
    listings = [_listing(root / "train", classes), _listing(held_out, classes)]
    if not all(listings):
        empty = root / "train" if not listings[0] else held_out
        raise DataError(f"{empty}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if size == 0:
        size = min(open_image(listings[0][0][0], channels).size)
    total = sum(map(len, listings)) * channels * size**2
    fits = total <= max_tensor_gib * 2**30
    sets: list[ImageSet] = []
    for listing in listings:
        y = torch.tensor([label for _, label in listing])
        files = FileImages(
            files=tuple(str(file) for file, _ in listing),
            y=y,
            channels=channels,
            image_size=size,
            center_crop=center_crop,
        )
        sets.append(in_memory(files) if fits else files)
    return Raw(train=sets[0], test=sets[1], class_names=tuple(classes))


def _has_labels(folder: Path) -> bool:
    if (folder / "val_annotations.txt").is_file():
        return True
    children = folder.iterdir() if folder.is_dir() else ()
    return any(child.is_dir() and child.name != "images" for child in children)


def _listing(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    labels = {name: label for label, name in enumerate(classes)}
    annotations = folder / "val_annotations.txt"
    if annotations.is_file():
        rows = [
            line.split("\t")[:2]
            for line in annotations.read_text(encoding="utf-8").splitlines()
            if line
        ]
        return [(folder / "images" / file, labels[name]) for file, name in rows if name in labels]
    unknown = [f.name for f in folder.iterdir() if f.is_dir() and f.name not in labels]
    if unknown:
        raise DataError(f"{folder}: has class {sorted(unknown)[0]!r}, which train/ has not")
    return [
        (file, labels[name])
        for name in classes
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
