"""The data sets by name, and how each is read: `load_data(config)` gives checked, split images.

A path that ends in .npz is read as arrays and a folder with train/ as an image tree, whatever the
name; otherwise scikit-learn (digits) or torchvision's class for the data set supplies the files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from guard.config.data import DATASETS, IMAGENET_MEAN, IMAGENET_STD, DataConfig, Dataset
from guard.data.facts import channel_statistics, content_digest
from guard.data.images import FileImages, ImageSet, Splits, TensorImages, split_off
from guard.data.look import looked_at
from guard.data.names import shown
from guard.data.readers import Raw, read_npz, read_tree
from guard.data.sources import default_root, fetch
from guard.data.spec import ImageSpec
from guard.errors import DataError

DECODING = 2
"""Raised whenever the same files would give other pixels than before."""
GREY_MEAN, GREY_STD = (0.449,), (0.226,)
"""Of ImageNet in grey: the means of its channels' values."""


def load_data(config: DataConfig) -> Splits:
    """Read, check and split a data set.

    Raises DataError, in one line that names the file or folder, if it is missing, empty, has one
    class, holds a broken image, or is not what `config.sha256` says.
    """
    splits = read_splits(replace(config, sha256=""))
    if config.sha256 not in ("", splits.sha256):
        raise DataError(
            f"data.sha256: {shown(config.path) or config.name} holds {splits.sha256[:12]}…, "
            f"the configuration was made with {config.sha256[:12]}…"
        )
    return splits


@functools.lru_cache(maxsize=2)
def read_splits(config: DataConfig) -> Splits:
    """As of `load_data`, whatever the content."""
    info = DATASETS[config.name]
    raw = _read(config, info)
    for part, images in raw.parts.items():
        _check_classes(raw, part, images)
    spec = _spec(info, raw)
    if config.image_size not in (0, spec.image_size):
        raise DataError(
            f"data.image_size: only image files are resized; {shown(config.path) or config.name} "
            f"holds {spec.image_size} px arrays, got {config.image_size}"
        )
    sha256 = content_digest(_content(raw))
    looks = [looked_at(raw, part) for part in raw.parts]
    train, validation = raw.train, raw.validation
    if validation is None:
        rest, held_out = split_off(
            train.y, config.validation_fraction, config.split_seed, "validation"
        )
        train, validation = train.subset(rest), train.subset(held_out)
    return Splits(
        spec=spec,
        train=train,
        validation=validation,
        test=raw.test,
        sha256=sha256,
        notes=(*raw.notes, *(note for look in looks for note in look.notes)),
        useless=next((look.useless for look in looks if look.useless), ""),
    )


def resolve(config: DataConfig) -> DataConfig:
    """The config with the content of its data filled in. Raises DataError, see `useful`."""
    return replace(config, sha256=useful(load_data(config)).sha256)


def useful(splits: Splits) -> Splits:
    """The splits. Raises DataError for a set whose images are all of one colour."""
    if splits.useless:
        raise DataError(splits.useless)
    return splits


def _read(config: DataConfig, info: Dataset) -> Raw:
    path = _existing(config.path) if config.path else None
    if path is not None and path.suffix.lower() == ".npz":
        return read_npz(path)
    if path is not None and (path / "train").is_dir():
        return _tree(path, config, info)
    is_torchvision = info.source.startswith("torchvision")
    if info.source and (path is None or (is_torchvision and path.is_dir())):
        root = (path or default_root()) if is_torchvision else Path()
        fetched = _fetched(config.name, info.source, root)
        return fetched if isinstance(fetched, Raw) else _tree(fetched, config, info)
    got = f"no path, and {config.name} has no source of its own" if path is None else shown(path)
    raise DataError(
        f"data.path: must be an .npz file or a folder with train/ and val/ or test/, got {got}"
    )


def _existing(text: str) -> Path:
    """Raises DataError if there is nothing, or nothing that may be read."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        raise DataError(f"data.path: {shown(text)} does not exist") from None
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a null byte
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"data.path: {shown(text)} cannot be read ({reason})") from None
    return path


def _fetched(name: str, source: str, root: Path) -> Raw | Path:
    try:
        return fetch(source, root)
    except DataError:
        raise
    except Exception as error:  # damaged files make torchvision's readers raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"data.path: cannot get {name} in {shown(root)} ({shown(lines[0])})"
        ) from None


def _tree(root: Path, config: DataConfig, info: Dataset) -> Raw:
    return read_tree(root, config.side, info.channels, config.max_tensor_gib, config.center_crop)


def _check_classes(raw: Raw, part: str, images: ImageSet) -> None:
    """Raises DataError unless each class has an image, and two where one is split off."""
    place, names = raw.places[part], raw.class_names
    if len(names) < 2:
        raise DataError(f"{place}: has one class; distillation needs two or more")
    counts = torch.bincount(images.y, minlength=len(names)).tolist()
    if len(counts) > len(names):
        raise DataError(f"{place}: has label {len(counts) - 1}; there are {len(names)} classes")
    fewest = min(counts)
    label = counts.index(fewest)
    named = "" if names[label] == str(label) else f" ({names[label]})"
    if fewest == 0:
        raise DataError(
            f"{place}: label {label}{named} has no images; labels must be 0..{len(names) - 1}"
        )
    if fewest == 1 and part == "train" and raw.validation is None:
        raise DataError(f"{place}: label {label}{named} has one training image; a split needs two")


def _content(raw: Raw) -> Iterator[Any]:
    """What tells two data sets apart: pixels and labels, or file names, labels and sizes."""
    yield ",".join(raw.class_names).encode()
    for images in raw.parts.values():
        yield images.y.numpy()
        if isinstance(images, TensorImages):
            yield images.x.numpy()
        elif isinstance(images, FileImages):
            side = round(images.image_size / images.center_crop)
            size = f"{images.channels}x{images.image_size} of {side}"
            yield f"{size}, decoding {DECODING}".encode()
            for file in map(Path, images.files):
                yield f"{file.name}:{_size(file)}".encode(errors="surrogateescape")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read ({error.strerror})") from None


def _spec(info: Dataset, raw: Raw) -> ImageSpec:
    train, mean, std = raw.train, info.mean, info.std
    if isinstance(train, TensorImages):
        channels, size = int(train.x.shape[1]), int(train.x.shape[2])
        if len(mean) != channels:
            mean, std = channel_statistics(train.x)
    else:
        assert isinstance(train, FileImages)
        channels, size = train.channels, train.image_size
        if len(mean) != channels:
            mean, std = (GREY_MEAN, GREY_STD) if channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
    return ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=len(raw.class_names),
        mean=mean,
        std=std,
        class_names=raw.class_names,
    )
