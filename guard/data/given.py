"""Sets of images that somebody made, by any method and any code, in the forms that they come in."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guard.data.decode import SUFFIXES, open_image
from guard.data.names import shown
from guard.data.spec import ImageSpec
from guard.data.trees import LEFT_BEHIND
from guard.errors import DataError
from guard.sums import sha256

IMAGE_KEYS = ("images", "x", "x_train", "data", "image", "images_train")
LABEL_KEYS = ("labels", "y", "y_train", "targets", "label", "labels_train")
SLACK = 1e-3
"""By which floats may leave the range that they are taken to have."""
NO_PIXELS = (torch.bool, torch.uint16, torch.uint32, torch.uint64)
"""Types of which nobody can say what 1 means, or that torch cannot compare."""
SPREAD = 8.0
"""Deviations from the mean beyond which nobody's normalised pixels are."""


@dataclass(frozen=True, kw_only=True)
class GivenSet:
    """As many images of each of K classes, in the order of a distilled set."""

    images: Tensor
    """float32 (m, K, C, H, W) in [0, 1]."""
    soft_labels: Tensor | None
    """float32 (m, K, K): probabilities, where the set's labels are no classes."""
    notes: tuple[str, ...]
    """What was taken for what, a line each."""


def content_of(path: Path) -> str:
    """SHA-256 (hex) of a file, or of all files of a folder with their names. Raises DataError."""
    if not path.exists():
        raise DataError(f"{shown(path)}: does not exist")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        total.update(name.encode(errors="surrogateescape") + b"\0")
        try:
            total.update(bytes.fromhex(sha256(file)))
        except OSError as error:
            raise DataError(f"{shown(file)}: cannot be read ({error.strerror})") from None
    return total.hexdigest()


def check_content(path: Path, sha256: str) -> None:
    """Raises DataError where a file or folder is not what it was when its content was taken."""
    if content_of(path) != sha256:
        raise DataError(f"{shown(path)}: is not what it was when the study began")


def read_given(path: Path, spec: ImageSpec) -> GivenSet:
    """A set of images like those of a data set: a tree of image files (a folder a class), an .npz
    file, or a .pt file of (images, labels). spec: of the data set.

    Raises DataError, which names the file and the rule, for what is none.
    """
    if path.is_dir():
        x, y, notes = _tree(path, spec)
    elif path.suffix.lower() == ".npz":
        x, y, notes = _npz(path)
    elif path.suffix.lower() in (".pt", ".pth"):
        x, y, notes = _pt(path)
    else:
        raise DataError(
            f"{shown(path)}: must be a folder of images, an .npz or a .pt file, or the folder of a "
            "distilled set"
        )
    images, laid = _laid_out(path, x, spec)
    pixels, taken = in_unit_range(path, images, spec)
    labels, soft, meant = _labels(path, y, len(pixels), spec)
    chosen = _by_class(path, labels, spec)
    return GivenSet(
        images=pixels[chosen],
        soft_labels=None if soft is None else soft[chosen],
        notes=(*notes, *laid, *taken, *meant),
    )


def in_unit_range(path: Path, x: Tensor, spec: ImageSpec) -> tuple[Tensor, list[str]]:
    """Images (N, C, H, W) as float32 in [0, 1], and what their values were taken to be: whole
    numbers or floats of 0..255, floats of 0..1 or -1..1, or normalised by the data set's mean and
    deviation. Raises DataError for values that are none of them."""
    low, high = float(x.min()), float(x.max())
    place, found = shown(path), f"{low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high) and bool(x.isfinite().all())):
        raise DataError(f"{place}: pixels must be finite")
    whole = not x.is_floating_point()
    x = x.float()
    if low >= 0 and high <= 255 and (whole or high > 1 + SLACK):
        if high <= SPREAD and not whole:
            raise DataError(
                f"{place}: pixels from {found} are neither of 0..1 nor of 0..255; save them as one"
            )
        notes = [] if whole else [f"{place}: floats from {found} are taken as 0..255"]
        return x / 255, notes
    if low >= -SLACK and high <= 1 + SLACK:
        return x.clamp(0, 1), []
    if low >= -1 - SLACK and high <= 1 + SLACK:
        return ((x + 1) / 2).clamp(0, 1), [f"{place}: pixels from {found} are taken as -1..1"]
    if max(-low, high) > SPREAD:
        raise DataError(f"{place}: pixels from {found} are in no range that is known")
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    pixels = x * std + mean
    outside = float(((pixels < -SLACK) | (pixels > 1 + SLACK)).double().mean())
    clipped = f"; {100 * outside:.1f} % of them are outside 0..1 and cut off" if outside else ""
    return pixels.clamp(0, 1), [
        f"{place}: pixels from {found} are taken as normalised by the data set's mean and "
        f"deviation{clipped}"
    ]


def _tree(path: Path, spec: ImageSpec) -> tuple[Tensor, Tensor, list[str]]:
    hidden = LEFT_BEHIND | {own.name for own in path.glob(".*")}
    folders = sorted(p for p in path.iterdir() if p.is_dir() and p.name not in hidden)
    files = {
        own: sorted(p for p in own.iterdir() if p.suffix.lower() in SUFFIXES) for own in folders
    }
    folders = [own for own in folders if files[own]]
    if len(folders) != spec.num_classes:
        raise DataError(
            f"{shown(path)}: has {len(folders)} folders of images; the data has "
            f"{spec.num_classes} classes"
        )
    numbers, order = _class_numbers([own.name for own in folders], spec)
    images, labels = [], []
    for folder, number in zip(folders, numbers, strict=True):
        for file in files[folder]:
            images.append(_pixels(file, spec))
            labels.append(number)
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise DataError(f"{shown(path)}: its images have several sizes: {sorted(shapes)[:3]}")
    return torch.stack(images), torch.tensor(labels), [f"{shown(path)}: classes are {order}"]


def _class_numbers(names: list[str], spec: ImageSpec) -> tuple[list[int], str]:
    """The class of each folder, and how it was found. Folders sort differently from program to
    program, so their names are believed before their order is."""
    if set(names) == set(spec.class_names):
        return [spec.class_names.index(name) for name in names], "the folders' names"
    leading = [re.match(r"\d+", name) for name in names]
    found = [int(own[0]) for own in leading if own]
    if sorted(found) == list(range(spec.num_classes)):
        return found, "the numbers that the folders' names begin with"
    return list(range(len(names))), "the folders in the order of their names"


def _pixels(file: Path, spec: ImageSpec) -> Tensor:
    """uint8 (C, H, W). Channels other than 1 and 3 lie side by side (`guard.pictures`)."""
    if spec.channels in (1, 3):
        image: Image.Image = open_image(file, spec.channels)
        x = torch.from_numpy(np.array(image))
        return x[None] if x.ndim == 2 else x.permute(2, 0, 1)
    x = torch.from_numpy(np.array(open_image(file, 1)))
    return torch.stack(x.chunk(spec.channels, dim=1))


def _npz(path: Path) -> tuple[Tensor, Any, list[str]]:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{shown(path)}: not an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    except Exception as error:  # damaged files make zipfile and numpy raise anything
        raise DataError(f"{shown(path)}: damaged .npz file ({shown(str(error))})") from None
    return (*_pair(path, held), [])


def _pt(path: Path) -> tuple[Tensor, Any, list[str]]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise anything
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{shown(path)}: cannot be read as plain tensors ({shown(line)}); save (images, labels)"
        ) from None
    return (*_pair(path, held), [])


def _pair(path: Path, held: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of what a file holds. DC's files keep a list of such pairs under data, the
    last of which counts."""
    if isinstance(held, Mapping) and isinstance(held.get("data"), list) and held["data"]:
        held = held["data"][-1]
    if isinstance(held, Mapping):
        images = next((held[name] for name in IMAGE_KEYS if name in held), None)
        labels = next((held[name] for name in LABEL_KEYS if name in held), None)
        if images is None or labels is None:
            raise DataError(
                f"{shown(path)}: needs images and labels, has {', '.join(map(str, held)) or 'none'}"
            )
        held = (images, labels)
    if not (isinstance(held, (list, tuple)) and len(held) == 2):
        raise DataError(f"{shown(path)}: must hold (images, labels), got {type(held).__name__}")
    try:
        images, labels = (torch.as_tensor(part) for part in held)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{shown(path)}: images and labels must be arrays of numbers ({shown(str(error))})"
        ) from None
    if images.dtype in NO_PIXELS or images.is_complex():
        raise DataError(f"{shown(path)}: images must be uint8 or floats, got {images.dtype}")
    return images.detach(), labels.detach()


def _laid_out(path: Path, x: Tensor, spec: ImageSpec) -> tuple[Tensor, list[str]]:
    """(N, C, H, W) of images with channels first, last or, where there is one, left out."""
    side, wanted = spec.image_size, (spec.channels, spec.image_size, spec.image_size)
    if x.ndim == 3 and spec.channels == 1:
        x = x[:, None]
    if (
        x.ndim == 4
        and tuple(x.shape[1:]) != wanted
        and tuple(x.shape[1:]) == (side, side, wanted[0])
    ):
        x = x.permute(0, 3, 1, 2)
    if x.ndim != 4 or tuple(x.shape[1:]) != wanted or len(x) == 0:
        raise DataError(
            f"{shown(path)}: images must be (N, {', '.join(map(str, wanted))}) as the data's are, "
            f"got {tuple(x.shape)}"
        )
    return x.contiguous(), []


def _labels(
    path: Path, y: Tensor, count: int, spec: ImageSpec
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Classes (N,), probabilities (N, K) where the labels are such, or logits, and what was
    meant."""
    place, classes = shown(path), spec.num_classes
    if y.shape == (count, 1):
        y = y[:, 0]
    if y.shape == (count, classes) and y.is_floating_point() and bool(y.isfinite().all()):
        y = y.float()
        sums = y.sum(dim=1)
        if bool((y >= 0).all()) and torch.allclose(sums, torch.ones(count), atol=1e-2):
            return y.argmax(dim=1), y / sums[:, None], [f"{place}: its labels are probabilities"]
        return y.argmax(dim=1), y.softmax(dim=1), [f"{place}: its labels are taken as logits"]
    y = y if y.is_floating_point() else y.long()
    whole = not y.is_floating_point() or bool((y == y.round()).all())
    if y.shape != (count,) or not whole:
        raise DataError(
            f"{place}: labels must be {count} classes or ({count}, {classes}) probabilities, got "
            f"{y.dtype} {tuple(y.shape)}"
        )
    y = y.long()
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise DataError(
            f"{place}: labels must be 0..{classes - 1}, got {int(y.min())}..{int(y.max())}"
        )
    return y, None, []


def _by_class(path: Path, labels: Tensor, spec: ImageSpec) -> Tensor:
    """Indices (m, K): the i-th image of each class."""
    counts = labels.bincount(minlength=spec.num_classes)
    if int(counts.min()) != int(counts.max()):
        few, many = int(counts.argmin()), int(counts.argmax())
        raise DataError(
            f"{shown(path)}: must have as many images of each class; class {few} has "
            f"{int(counts.min())}, class {many} has {int(counts.max())}"
        )
    return torch.stack([(labels == k).nonzero().flatten() for k in range(spec.num_classes)], dim=1)
