"""Image sets: what a loader gives to training and evaluation, whether it fits in memory or not.

Images leave a set as float in [0, 1], (B, C, H, W); labels as int64, (B,).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from guard.data.augment import crop_windows, resized_crop
from guard.data.decode import open_image
from guard.data.spec import ImageSpec
from guard.errors import DataError
from guard.group import ALONE, Group
from guard.seeding import derive, generator


class ImageSet(Protocol):
    """Labelled images that come in batches."""

    @property
    def y(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> ImageSet: ...

    def numbered(self) -> ImageSet:
        """The same images with their numbers, 0..N−1, in place of the labels."""
        ...

    def near(self, device: torch.device) -> ImageSet:
        """The same set, on the device as far as it lies in memory: for work that reads it again and
        again there."""
        ...

    def shared_by(self, group: Group) -> ImageSet:
        """The same set, of which every process of the group gets the same batches."""
        ...

    def batches(
        self,
        batch_size: int,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        crop_scale: float | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass. With `shuffle`, in an order (and, with `crop_scale`, resized crops of at least
        that share of the area) drawn from it."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """A set that lives in memory: x uint8 (N, C, H, W), y int64 (N,), on the CPU."""

    x: Tensor
    y: Tensor
    originals: FileImages | None = None
    """Where x is what remains of larger or oblong pictures: these. Resized crops are cut from them,
    as from a set that streams; None: from x."""

    def __len__(self) -> int:
        return len(self.y)

    def numbered(self) -> TensorImages:
        """As of `ImageSet.numbered`."""
        return replace(self, y=torch.arange(len(self)))

    def subset(self, indices: Tensor) -> TensorImages:
        """The images of indices (N,), in that order."""
        originals = None if self.originals is None else self.originals.subset(indices)
        return TensorImages(self.x[indices.to(self.x.device)], self.y[indices], originals)

    def near(self, device: torch.device) -> TensorImages:
        """As of `ImageSet.near`."""
        return replace(self, x=self.x.to(device))

    def shared_by(self, group: Group) -> TensorImages:
        """As of `ImageSet.shared_by`."""
        originals = None if self.originals is None else self.originals.shared_by(group)
        return replace(self, originals=originals)

    def batches(
        self,
        batch_size: int,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        crop_scale: float | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As of `ImageSet.batches`: images (B, C, H, W) in [0, 1] and labels (B,)."""
        cropped = shuffle is not None and crop_scale is not None
        if cropped and self.originals is not None:
            yield from self.originals.batches(batch_size, device, shuffle, crop_scale)
            return
        x, y = self.x.to(device), self.y.to(device)
        height, width = x.shape[-2:]
        for indices in epoch_order(len(self), shuffle).split(batch_size):
            indices = indices.to(device)
            images = x[indices].float() / 255
            if shuffle is not None and crop_scale is not None:
                windows = crop_windows(len(images), crop_scale, (height, width), shuffle)
                images = resized_crop(images, windows)
            yield images, y[indices]


def load_images(images: ImageSet, indices: Tensor, device: torch.device) -> Tensor:
    """The images of `indices` (N,), in that order: (N, C, H, W) in [0, 1]."""
    return torch.cat([x for x, _ in images.subset(indices).batches(1000, device)])


def epoch_order(count: int, shuffle: torch.Generator | None) -> Tensor:
    """Indices (count,): in order, or as `shuffle` draws them."""
    return torch.arange(count) if shuffle is None else torch.randperm(count, generator=shuffle)


@dataclass(frozen=True, kw_only=True)
class FileImages:
    """A set that streams from image files, decoded by `num_workers` processes."""

    files: tuple[str, ...]
    y: Tensor
    channels: int
    image_size: int
    center_crop: float = 1.0
    """Share of the short side that a whole image keeps, see `to_square`."""
    num_workers: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    group: Group = ALONE
    """Whose processes decode their shares of each batch, and give them to one another."""

    def __len__(self) -> int:
        return len(self.y)

    def numbered(self) -> FileImages:
        """As of `ImageSet.numbered`."""
        return replace(self, y=torch.arange(len(self)))

    def subset(self, indices: Tensor) -> FileImages:
        """The images of indices (N,), in that order."""
        files = tuple(self.files[i] for i in indices.tolist())
        return replace(self, files=files, y=self.y[indices])

    def near(self, device: torch.device) -> FileImages:
        """As of `ImageSet.near`: its files stay where they are."""
        return self

    def shared_by(self, group: Group) -> FileImages:
        """As of `ImageSet.shared_by`."""
        return replace(self, group=group)

    def batches(
        self,
        batch_size: int,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        crop_scale: float | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As of `ImageSet.batches`: decoded, images (B, C, H, W) in [0, 1] and labels (B,). Raises
        DataError that names an unreadable file."""
        order = epoch_order(len(self), shuffle)
        seed = None
        if shuffle is not None and crop_scale is not None:
            seed = int(torch.randint(2**62, (), generator=shuffle))
        decode = _Decode(replace(self, group=ALONE), order, crop_scale or 1.0, seed)
        parts = torch.arange(len(self)).split(batch_size) if len(self) else ()
        positions = [part.tolist() for part in parts]
        shares = [self.group.share(len(part)) for part in positions]
        own = [part[share.rows] for part, share in zip(positions, shares, strict=True)]
        try:
            pinned = device.type == "cuda"  # so that copies go on beside the GPU's work
            loader = DataLoader(
                decode, batch_sampler=own, num_workers=self.num_workers, pin_memory=pinned
            )
            for (x, _), part, share in zip(loader, positions, shares, strict=True):
                pixels = self.group.gathered(x.to(device, non_blocking=pinned), share, len(part))
                labels = self.y[order[part]].to(device)
                yield pixels.float() / 255, labels
        except DataError as error:  # from another process it brings that one's trace along
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from None


class _Decode(Dataset[tuple[Tensor, Tensor]]):
    def __init__(
        self, images: FileImages, order: Tensor, crop_scale: float, seed: int | None
    ) -> None:
        """order: indices (N,); seed: of the crops, None for whole images."""
        self.images, self.order, self.crop_scale, self.seed = images, order, crop_scale, seed

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        index = int(self.order[position])
        image = open_image(Path(self.images.files[index]), self.images.channels)
        if self.seed is None:
            size, share = self.images.image_size, self.images.center_crop
            return to_square(image, size, share), self.images.y[index]
        draws, whole = generator(derive(self.seed, position)), (image.height, image.width)
        top, left, height, width = crop_windows(1, self.crop_scale, whole, draws)[0].tolist()
        window = image.crop((left, top, left + width, top + height))
        resized = window.resize((self.images.image_size,) * 2, Image.Resampling.BILINEAR)
        return to_tensor(resized), self.images.y[index]


def in_memory(files: FileImages) -> TensorImages:
    """The files as a set in memory. It keeps the files where any is not a square of `image_size`
    already. Raises DataError that names an unreadable file."""
    side, whole = files.image_size, True
    x = torch.empty(len(files), files.channels, side, side, dtype=torch.uint8)
    for place, file in zip(x, files.files, strict=True):
        image = open_image(Path(file), files.channels)
        whole = whole and image.size == (side, side)
        place.copy_(to_square(image, side, files.center_crop))
    return TensorImages(x, files.y, None if whole else files)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (C, H, W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def to_square(image: Image.Image, size: int, share: float = 1.0) -> Tensor:
    """uint8 (C, size, size): the short side resized to size / share, the middle kept, as
    torchvision's Resize and CenterCrop do it."""
    short = round(size / share)
    width, height = (int(short * side / min(image.size)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return to_tensor(resized.crop((left, top, left + size, top + size)))


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set, ready for a trial. The search sees `validation`; `test` only reports."""

    spec: ImageSpec
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    sha256: str
    notes: tuple[str, ...] = ()
    """What its user should know of how it was read, a line each."""
    useless: str = ""
    """Why nothing can be learned from it, in a line; empty where something may be."""

    @property
    def smallest_class(self) -> int:
        """How many training images the smallest class has."""
        return int(self.train.y.bincount().min())

    def named(self, split: str) -> ImageSet:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def split_off(y: Tensor, fraction: float, seed: int, label: str) -> tuple[Tensor, Tensor]:
    """Sorted indices (rest, part): `fraction` of each class, at least one image, drawn by seed.

    Raises DataError if a class has only one image.
    """
    draw = generator(seed, label)
    rest, part = [], []
    for label_value in y.unique().tolist():
        members = (y == label_value).nonzero().flatten()
        if len(members) < 2:
            raise DataError(f"class {label_value} has one training image; a split needs two")
        members = members[torch.randperm(len(members), generator=draw)]
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        part.append(members[:count])
        rest.append(members[count:])
    return torch.cat(rest).sort().values, torch.cat(part).sort().values
