"""Facts of images that are not there."""

from __future__ import annotations

from guard.data.spec import ImageSpec


def spec(channels: int = 1, size: int = 8, classes: int = 4) -> ImageSpec:
    mean, std = (0.3, 0.4, 0.5)[:channels], (0.2, 0.25, 0.3)[:channels]
    return ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=classes,
        mean=mean,
        std=std,
        class_names=tuple(map(str, range(classes))),
    )
