"""What is known of images of noise, which speed and memory are measured on."""

from __future__ import annotations

from guard.data.spec import ImageSpec

CLASSES = 10


def spec_of(channels: int, side: int, classes: int = CLASSES) -> ImageSpec:
    """side: in pixels."""
    return ImageSpec(
        channels=channels,
        image_size=side,
        num_classes=classes,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        class_names=tuple(map(str, range(classes))),
    )
