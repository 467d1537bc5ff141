"""Files that images come in: .npz arrays and image trees."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from guard.config.data import MAX_SIDE
from guard.data.decode import is_grey, open_image
from guard.data.images import FileImages, ImageSet, TensorImages, in_memory
from guard.data.names import shown
from guard.data.trees import Listing, list_tree
from guard.device import memory_bytes
from guard.errors import DataError

NPZ_PARTS = {"train": "train", "test": "test", "validation": "val"}
"""Part -> the end of its arrays' names."""
LABELS_RULE = "labels must be 0..K-1, each with images"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A data set as read: the official training and test sets."""

    parts: Mapping[str, ImageSet]
    """train, test and, unless it is to be split off the training set, validation."""
    class_names: tuple[str, ...]
    places: Mapping[str, str]
    """Of each part, as messages name it."""
    files: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Of each part, where its images are files."""
    notes: tuple[str, ...] = ()
    """What a user should know of the reading, a line each."""

    @property
    def train(self) -> ImageSet:
        return self.parts["train"]

    @property
    def test(self) -> ImageSet:
        return self.parts["test"]

    @property
    def validation(self) -> ImageSet | None:
        return self.parts.get("validation")

    def image_name(self, part: str, index: int) -> str:
        """An image as messages name it."""
        files = self.files.get(part)
        return shown(files[index]) if files else f"number {index}"


def read_npz(path: Path) -> Raw:
    """Arrays x_train, y_train, x_test, y_test, and x_val, y_val if they are there; x is uint8
    (N, H, W) or (N, H, W, C), y holds N integers, (N,) or (N, 1). Raises DataError, which names the
    file, for anything else."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{shown(path)}: not an .npz file")
    sets: dict[str, TensorImages] = {}
    try:
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # damaged files make zipfile and numpy raise anything
        raise _damaged(path, error) from None
    with file:
        parts, others = _arrays_of(path, file)
        for part, (x, y) in parts.items():
            images = _images(path, x, _member(path, file, x))
            sets[part] = TensorImages(images, _labels(path, y, _member(path, file, y), images))
    _check_shapes(path, {x: sets[part].x for part, (x, _) in parts.items()})
    count = _num_classes(path, {y: sets[part].y for part, (_, y) in parts.items()})
    return Raw(
        parts=sets,
        class_names=tuple(map(str, range(count))),
        places={part: f"{shown(path)}: {x}" for part, (x, _) in parts.items()},
        notes=(f"left out of {shown(path)}: {', '.join(map(shown, others))}",) if others else (),
    )


def _arrays_of(path: Path, file: NpzFile) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """The names of each part's arrays, and of those that are none. Raises DataError if some are
    missing, or larger than the memory."""
    parts = {part: (f"x_{end}", f"y_{end}") for part, end in NPZ_PARTS.items()}
    if not {"x_val", "y_val"} & set(file.files):
        del parts["validation"]
    needed = [name for names in parts.values() for name in names]
    missing = [name for name in needed if name not in file.files]
    if missing:
        raise DataError(f"{shown(path)}: has no {missing[0]}; needs {', '.join(needed)}")
    members = file.zip.infolist() if file.zip else []
    size = sum(m.file_size for m in members if m.filename.removesuffix(".npy") in needed)
    if size > memory_bytes():
        raise DataError(
            f"{shown(path)}: its arrays take {size / 2**30:.1f} GiB, this machine has "
            f"{memory_bytes() / 2**30:.1f} GiB of memory"
        )
    return parts, [name for name in file.files if name not in needed]


def _member(path: Path, file: NpzFile, name: str) -> np.ndarray:
    try:
        array = file[name]
    except Exception as error:
        raise _damaged(path, error, name) from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{shown(path)}: {name} is no array of numpy's")
    return array


def _damaged(path: Path, error: Exception, name: str = "") -> DataError:
    if "Object arrays" in str(error):
        return DataError(f"{shown(path)}: {name} must be numbers, got Python objects")
    reason = shown(str(error)) or type(error).__name__
    return DataError(f"{shown(path)}: damaged .npz file ({name + ': ' if name else ''}{reason})")


def _images(path: Path, name: str, x: np.ndarray) -> Tensor:
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape[1:]:
        hint = "; of floats in [0, 1]: np.rint(255 * x).astype(np.uint8)"
        raise DataError(
            f"{shown(path)}: {name} must be uint8 (N, H, W[, C]), got {x.dtype} {x.shape}"
            f"{hint if np.issubdtype(x.dtype, np.floating) else ''}"
        )
    if len(x) == 0:
        raise DataError(f"{shown(path)}: {name} holds no images")
    return channels_first(x)


def _labels(path: Path, name: str, y: np.ndarray, images: Tensor) -> Tensor:
    """int64 (N,)."""
    if y.shape == (len(images), 1):
        y = y[:, 0]
    if y.shape != (len(images),) or not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"{shown(path)}: {name} must be {len(images)} integers, got {y.dtype} {y.shape}"
        )
    for label in (int(y.min()), int(y.max())):
        if not 0 <= label < 2**62:
            raise DataError(f"{shown(path)}: {name} has label {label}; {LABELS_RULE}")
    return torch.from_numpy(y.astype(np.int64))


def _num_classes(path: Path, labels: Mapping[str, Tensor]) -> int:
    """Checked before names are made: a label as large as the number of training images leaves a
    class without one."""
    largest = {name: int(y.max()) for name, y in labels.items()}
    count = 1 + largest["y_train"]
    if count > len(labels["y_train"]):
        raise DataError(
            f"{shown(path)}: y_train has label {count - 1} and {len(labels['y_train'])} images; "
            f"{LABELS_RULE}"
        )
    for name, label in largest.items():
        if label >= count:
            raise DataError(f"{shown(path)}: {name} has label {label}, which y_train has not")
    return count


def _check_shapes(path: Path, parts: Mapping[str, Tensor]) -> None:
    """Raises DataError unless all images are square and of one size."""
    shapes = {name: tuple(x.shape[1:]) for name, x in parts.items()}
    if len(set(shapes.values())) > 1 or any(h != w for _, h, w in shapes.values()):
        found = ", ".join(f"{name} has {h}x{w}x{c}" for name, (c, h, w) in shapes.items())
        raise DataError(
            f"{shown(path)}: images must be square and of one size, channels last; {found}"
        )


def channels_first(x: np.ndarray) -> Tensor:
    """(N, H, W) or (N, H, W, C) to a contiguous (N, C, H, W) tensor."""
    images = torch.from_numpy(x)
    return (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)).contiguous()


def read_tree(
    root: Path, size: int, channels: int, max_tensor_gib: float, center_crop: float = 1.0
) -> Raw:
    """An image tree (`guard.data.trees.list_tree`).

    size: side in pixels, or 0 for that of the first image. channels: 3, or 1 for grey images, where
    a tree with a file that is stored in colour has 3. center_crop: share of an image's short side
    that it keeps. Sets of more than `max_tensor_gib` are streamed.

    Raises DataError, which names the file or folder, for what cannot be read.
    """
    tree = list_tree(root)
    files = [file for part in tree.parts.values() for file in part.files]
    if channels == 1 and not all(map(is_grey, files)):
        channels = 3
    if size == 0:
        size = min(open_image(files[0], 3).size)
        if size > MAX_SIDE:
            raise DataError(
                f"{shown(files[0])}: has {size} px, at most {MAX_SIDE} are taken; "
                "data.image_size=N makes them smaller"
            )
    if round(size / center_crop) > MAX_SIDE:
        raise DataError(
            f"data.center_crop: {center_crop:g} of {size} px makes images of more than {MAX_SIDE}"
        )
    sets = {name: _streamed(part, channels, size, center_crop) for name, part in tree.parts.items()}
    fits = len(files) * channels * size**2 <= max_tensor_gib * 2**30
    return Raw(
        parts={name: in_memory(part) for name, part in sets.items()} if fits else sets,
        class_names=tree.class_names,
        places={name: shown(part.folder) for name, part in tree.parts.items()},
        files={name: part.files for name, part in tree.parts.items()},
        notes=tree.notes,
    )


def _streamed(part: Listing, channels: int, size: int, center_crop: float) -> FileImages:
    return FileImages(
        files=tuple(map(str, part.files)),
        y=torch.tensor(part.labels),
        channels=channels,
        image_size=size,
        center_crop=center_crop,
    )
