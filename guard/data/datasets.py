"""The data sets by name, and how each is read: `load_data(config)` gives checked, split images.

A path that ends in .npz is read as arrays and a folder with train/ as an image tree, whatever the
name; otherwise scikit-learn (digits) or torchvision's class for the data set supplies the files.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.config.data import DATASETS, IMAGENET_MEAN, IMAGENET_STD, DataConfig, Dataset
from guard.data.images import (
    FileImages,
    Splits,
    TensorImages,
    channel_statistics,
    content_digest,
    split_off,
)
from guard.data.readers import Raw, channels_first, read_npz, read_tree
from guard.data.spec import ImageSpec
from guard.errors import DataError

DEFAULT_ROOT = Path.home() / ".cache" / "robust-distillation-lab"
DIGITS_TEST_FRACTION = 0.2


def _digits() -> Raw:
    """scikit-learn's digits, from its file: importing the package takes a second in every worker,
    and all of SciPy. Raises DataError if the file is not there."""
    package = importlib.util.find_spec("sklearn")
    places = package.submodule_search_locations if package else None
    file = Path(places[0] if places else "sklearn") / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        raise DataError(f"{file}: scikit-learn's digits are not there")
    rows = np.loadtxt(file, delimiter=",")
    pixels = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = TensorImages(torch.from_numpy(pixels)[:, None], torch.from_numpy(rows[:, -1]).long())
    train, test = split_off(images.y, DIGITS_TEST_FRACTION, 0, "digits-test")
    return Raw(
        train=images.subset(train), test=images.subset(test), class_names=tuple("0123456789")
    )


def _arrays(name: str, root: Path) -> Raw:
    """The torchvision class of that name, which downloads what is missing."""
    dataset = getattr(torchvision_datasets(), name)
    halves = [dataset(root, train=train, download=True) for train in (True, False)]
    sets = [
        TensorImages(channels_first(np.asarray(half.data)), torch.as_tensor(half.targets))
        for half in halves
    ]
    return Raw(train=sets[0], test=sets[1], class_names=tuple(halves[0].classes))


def torchvision_datasets() -> Any:
    import torchvision.datasets  # doubles the start-up time of a process

    return torchvision.datasets


def _unpacked(name: str, folder: Path, root: Path) -> Path:
    """The image tree that the torchvision class of that name unpacks, and downloads where it can
    and it is not there (ImageNet's archives it cannot)."""
    dataset = getattr(torchvision_datasets(), name)
    can_download = "download" in inspect.signature(dataset).parameters
    for split in ("train", "val"):
        missing = {"download": not (folder / split).is_dir()} if can_download else {}
        dataset(root, split=split, **missing)
    return folder


def _fetch(source: str, root: Path) -> Raw | Path:
    """Arrays, or the folder of an image tree, from a row's source; downloads go into `root`."""
    kind, _, rest = source.partition(":")
    if kind == "sklearn":
        return _digits()
    name, _, folder = rest.partition(":")
    return _arrays(name, root) if kind == "torchvision" else _unpacked(name, root / folder, root)


@functools.lru_cache(maxsize=2)
def load_data(config: DataConfig) -> Splits:
    """Read, check and split a data set.

    Raises DataError, in one line that names the file or folder, if it is missing, empty, has one
    class, holds a broken image, or is not what `config.sha256` says.
    """
    info = DATASETS[config.name]
    raw = _read(config, info)
    for part in (raw.train, raw.test):
        _check_labels(config, part.y, len(raw.class_names))
    sha256 = content_digest(_content(raw))
    if config.sha256 not in ("", sha256):
        raise DataError(
            f"data.sha256: {config.path or config.name} holds {sha256[:12]}…, "
            f"the configuration was made with {config.sha256[:12]}…"
        )
    fraction, seed = config.validation_fraction, config.split_seed
    rest, held_out = split_off(raw.train.y, fraction, seed, "validation")
    spec = _spec(info, raw)
    if config.image_size not in (0, spec.image_size):
        raise DataError(
            f"data.image_size: only image files are resized; {config.path or config.name} holds "
            f"{spec.image_size} px arrays, got {config.image_size}"
        )
    return Splits(
        spec=spec,
        train=raw.train.subset(rest),
        validation=raw.train.subset(held_out),
        test=raw.test,
        sha256=sha256,
    )


def resolve(config: DataConfig) -> DataConfig:
    """The config with the content of its data filled in. Raises DataError, see `load_data`."""
    return replace(config, sha256=load_data(config).sha256)


def _read(config: DataConfig, info: Dataset) -> Raw:
    path = Path(config.path).expanduser() if config.path else DEFAULT_ROOT
    if config.path and not path.exists():
        raise DataError(f"data.path: {path} does not exist")
    if path.suffix == ".npz":
        return read_npz(path)
    if (path / "train").is_dir():
        return _tree(path, config, info)
    if not info.source:
        wanted = (
            "an .npz file" if config.name == "npz" else "a folder with train/ and val/ or test/"
        )
        raise DataError(f"data.path: {config.name} needs {wanted}, got {config.path or 'no path'}")
    try:
        if not info.source.startswith("sklearn"):
            path.mkdir(parents=True, exist_ok=True)
        fetched = _fetch(info.source, path)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"data.path: cannot get {config.name} in {path} ({reason})") from None
    return fetched if isinstance(fetched, Raw) else _tree(fetched, config, info)


def _tree(root: Path, config: DataConfig, info: Dataset) -> Raw:
    size = config.image_size or info.image_size
    return read_tree(root, size, info.channels, config.max_tensor_gib, config.center_crop)


def _check_labels(config: DataConfig, y: Tensor, num_classes: int) -> None:
    place = config.path or config.name
    if len(y) == 0:
        raise DataError(f"{place}: holds no images")
    if num_classes < 2:
        raise DataError(f"{place}: has one class; distillation needs two or more")
    counts = torch.bincount(y, minlength=num_classes) if int(y.min()) >= 0 else None
    if counts is None or int(counts.min()) == 0:
        label = int(y.min()) if counts is None else int(counts.argmin())
        raise DataError(
            f"{place}: label {label} has no images; labels must be 0..{num_classes - 1}"
        )


def _content(raw: Raw) -> list[bytes]:
    """What tells two data sets apart: pixels and labels, or file names, labels and sizes."""
    parts = [",".join(raw.class_names).encode()]
    for part in (raw.train, raw.test):
        parts.append(part.y.numpy().tobytes())
        if isinstance(part, TensorImages):
            parts.append(part.x.numpy().tobytes())
        elif isinstance(part, FileImages):
            side = round(part.image_size / part.center_crop)
            parts.append(f"{part.channels}x{part.image_size} of {side}".encode())
            parts += [f"{Path(f).name}:{_size(Path(f))}".encode() for f in part.files]
    return parts


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from None


def _spec(info: Dataset, raw: Raw) -> ImageSpec:
    train, mean, std = raw.train, info.mean, info.std
    if isinstance(train, TensorImages):
        channels, size = int(train.x.shape[1]), int(train.x.shape[2])
        if len(mean) != channels:
            mean, std = channel_statistics(train.x)
    else:
        assert isinstance(train, FileImages)
        channels, size = train.channels, train.image_size
        mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
    return ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=len(raw.class_names),
        mean=mean,
        std=std,
        class_names=raw.class_names,
    )
