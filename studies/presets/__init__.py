"""Starting points: a full config and a search space for each data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from studies.presets.papers import (
    cifar10,
    cifar100,
    imagenet,
    imagenette,
    imagenette_128,
    tiny_imagenet,
)
from studies.presets.preset import Preset
from studies.presets.small import cifar10_small, digits, fashion_mnist, imagenette_small

__all__ = ["PRESETS", "Preset"]

PRESETS: Mapping[str, Callable[[], Preset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar10-small": cifar10_small,
    "cifar100": cifar100,
    "imagenette": imagenette,
    "imagenette-128": imagenette_128,
    "imagenette-small": imagenette_small,
    "tiny-imagenet": tiny_imagenet,
    "imagenet": imagenet,
}
