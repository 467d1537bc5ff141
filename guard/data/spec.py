"""Facts about a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Facts about a data set that models, recovery and evaluation need."""

    channels: int
    image_size: int
    """Side in pixels; images are square."""
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    @property
    def num_values(self) -> int:
        """D, the dimension of one image."""
        return self.channels * self.image_size**2
