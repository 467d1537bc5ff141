"""Data sets that come from packages: scikit-learn's digits, and torchvision's classes."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.data.images import TensorImages, split_off
from guard.data.names import shown
from guard.data.readers import Raw, channels_first
from guard.data.trees import holds_images
from guard.errors import DataError

DIGITS_TEST_FRACTION = 0.2


def default_root() -> Path:
    """Where torchvision keeps what no path names. Raises DataError for a user without a home."""
    try:
        return Path.home() / ".cache" / "robust-distillation-lab"
    except RuntimeError:
        raise DataError("data.path: needed, since there is no home folder to download to") from None


def fetch(source: str, root: Path) -> Raw | Path:
    """Arrays, or the folder of an image tree, from a row's source; downloads go into `root`.

    Raises DataError for a root with images that are not the data set's own, and what torchvision
    raises.
    """
    kind, _, rest = source.partition(":")
    if kind == "sklearn":
        return digits()
    name, _, folder = rest.partition(":")
    root.mkdir(parents=True, exist_ok=True)
    if not (folder and (root / folder).is_dir()) and holds_images(root):
        raise DataError(
            f"data.path: {shown(root)} holds images, but no train/ with a folder a class; to "
            f"download {name} there, name another folder"
        )
    return _arrays(name, root) if kind == "torchvision" else _unpacked(name, root / folder, root)


def digits() -> Raw:
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
        parts={"train": images.subset(train), "test": images.subset(test)},
        class_names=tuple("0123456789"),
        places={"train": "digits, train", "test": "digits, test"},
    )


def _arrays(name: str, root: Path) -> Raw:
    """The torchvision class of that name, which downloads what is missing."""
    dataset = getattr(torchvision_datasets(), name)
    sets: dict[str, TensorImages] = {}
    classes: tuple[str, ...] = ()
    for part in ("train", "test"):
        half = dataset(root, train=part == "train", download=True)
        x, y = channels_first(np.asarray(half.data)), torch.as_tensor(half.targets)
        sets[part], classes = TensorImages(x, y), tuple(half.classes)
    places = {part: f"{name}, {part}" for part in sets}
    return Raw(parts=sets, class_names=classes, places=places)


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
