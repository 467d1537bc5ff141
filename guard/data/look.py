"""A look at the pixels that were read: images that show nothing, sets that are all but black."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from guard.data.decode import open_image
from guard.data.facts import chunks, one_coloured
from guard.data.images import FileImages, TensorImages, to_square
from guard.data.readers import Raw

STREAMED = 8
"""Images of a streamed set that are looked at."""
DARK = 64
"""Levels of 255 that the pixels of a set should exceed somewhere."""


@dataclass(frozen=True, kw_only=True)
class Look:
    notes: tuple[str, ...] = ()
    useless: str = ""
    """Why nothing can be learned from the images, in a line."""


def looked_at(raw: Raw, part: str) -> Look:
    """What is to be said of the pixels of a part: all of them, or a few of those that are streamed.
    Raises DataError that names a file that is no image."""
    images, place = raw.parts[part], raw.places[part]
    if isinstance(images, TensorImages):
        x, chosen, seen = images.x, range(len(images)), f"{len(images)} images"
    else:
        assert isinstance(images, FileImages)
        chosen = torch.linspace(0, len(images) - 1, STREAMED).long().unique().tolist()
        files = [Path(images.files[index]) for index in chosen]
        side, share = images.image_size, images.center_crop
        decoded = (open_image(file, images.channels) for file in files)
        x = torch.stack([to_square(image, side, share) for image in decoded])
        seen = f"{len(files)} images looked at"
    blank = one_coloured(x).tolist()
    if blank:
        first = raw.image_name(part, chosen[blank[0]])
    if len(blank) == len(x):
        return Look(
            useless=f"{place}: all of {seen} have one colour all over; the first is {first}"
        )
    notes = []
    if blank:
        notes.append(
            f"{place}: {len(blank)} of {seen} have one colour all over; the first is {first}"
        )
    top = max(int(part.max()) for part in chunks(x))
    if top < DARK:
        notes.append(
            f"{place}: no pixel of {seen} is above {top} of 255; were 0..{top} meant as 0..255?"
        )
    return Look(notes=tuple(notes))
