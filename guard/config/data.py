"""The data sets by name, and which images a trial reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from guard.config.common import Seed
from guard.config.rules import OneOf, above, at_least
from guard.config.schema import LATER, Config


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A row of DATASETS. A path that holds arrays or an image tree is read whatever the name."""

    source: str = ""
    """Where images come from that no path names: "sklearn:digits"; "torchvision:CLASS:FOLDER", a
    class that holds arrays and keeps them in FOLDER of its root; "torchvision-tree:CLASS:FOLDER",
    one that unpacks an image tree there. Empty: the user has them."""
    image_size: int = 0
    """Default side of images that come as files; 0: stated by the user or the arrays."""
    mean: tuple[float, ...] = ()
    """Published statistics by channel, in [0, 1]; empty: computed on the training images."""
    std: tuple[float, ...] = ()
    channels: int = 3
    """Of image files: 3, or 1 for grey ones, where files in colour are read with 3 all the same."""


MAX_SIDE = 4096
"""In pixels, of an image that a network sees."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DATASETS: Mapping[str, Dataset] = {
    "digits": Dataset(source="sklearn:digits", channels=1),
    "fashion-mnist": Dataset(
        source="torchvision:FashionMNIST:FashionMNIST", mean=(0.2861,), std=(0.3530,), channels=1
    ),
    "cifar10": Dataset(
        source="torchvision:CIFAR10:cifar-10-batches-py",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": Dataset(
        source="torchvision:CIFAR100:cifar-100-python",
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    "imagenette": Dataset(
        source="torchvision-tree:Imagenette:imagenette2",
        image_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "tiny-imagenet": Dataset(
        image_size=64, mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262)
    ),
    "imagenet": Dataset(
        source="torchvision-tree:ImageNet:",
        image_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "folder": Dataset(),
    "npz": Dataset(),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images, and how they are split."""

    name: Annotated[str, OneOf(DATASETS)] = "digits"
    path: str = ""
    """A folder or an .npz file; empty: scikit-learn's or torchvision's own copy."""
    image_size: Annotated[int, at_least(0, at_most=MAX_SIDE)] = 0
    """Side in pixels that images are resized to; 0: as the data set has them."""
    center_crop: Annotated[float, above(0, at_most=1)] = field(default=1.0, metadata=LATER)
    """Share of an image file's short side that is kept where it is seen whole, as in testing: it is
    resized to image_size / center_crop, and its middle cut out. 0.875 at 224 px is the Resize(256)
    and CenterCrop(224) that ImageNet is tested with."""
    validation_fraction: Annotated[float, above(0, at_most=0.9)] = 0.1
    """Share of each class's training images that the search selects on, unless the data set brings
    a validation set beside its test set."""
    split_seed: Seed = 0
    max_tensor_gib: Annotated[float, at_least(0)] = 1.2
    """Sets up to this size live as tensors on the device; larger ones stream from disk."""
    sha256: str = ""
    """Content of the data, filled in when a study starts; a stage refuses other content."""

    @property
    def side(self) -> int:
        """In pixels, of images that are read from files; 0: as the data set has them."""
        return self.image_size or DATASETS[self.name].image_size
