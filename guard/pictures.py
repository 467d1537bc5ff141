"""Images as pictures to look at: one of them, and a sheet of a set.

One channel is drawn in grey, three are red, green and blue; of any other number each is drawn in
grey, side by side.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from guard.data.spec import ImageSpec

CELL_MIN_PX = 48
MARGIN_PX, GAP_PX = 90, 2
"""Left of the images, for names of classes; between the images."""
NAME_LENGTH, NAME_PX, FONT_PX = 13, 84, 10
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
NO_CHARACTER = "\uffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_picture(image: Tensor) -> Image.Image:
    """(C, H, W) in [0, 1] to an 8-bit picture, rounded to the nearest level: grey for one channel,
    RGB for three, otherwise the channels in grey from left to right, C·W wide."""
    levels = image.mul(255).round().clamp(0, 255).byte()
    if len(levels) == 3:
        return Image.fromarray(levels.permute(1, 2, 0).numpy())
    return Image.fromarray(torch.cat(list(levels), dim=1).numpy())


def contact_sheet(
    images: Tensor, spec: ImageSpec, max_columns: int = 10, max_rows: int = 20
) -> Image.Image:
    """A row a class (the first `max_rows`), up to `max_columns` squares in each.

    images: (K·ipc, C, H, W) in [0, 1], image i of class c as number i·K + c.
    """
    rows, squares = min(spec.num_classes, max_rows), 1 if spec.channels in (1, 3) else spec.channels
    columns = min(len(images) // spec.num_classes, max(max_columns // squares, 1))
    side = max(spec.image_size, CELL_MIN_PX)
    across, down = side * squares + GAP_PX, side + GAP_PX
    sheet = Image.new("RGB", (MARGIN_PX + columns * across, rows * down), "white")
    draw = ImageDraw.Draw(sheet)
    for row in range(rows):
        text, font = lettering(row, spec.class_names[row])
        draw.text((4, row * down + side // 2 - 6), text, "black", font)
        for column in range(columns):
            picture = to_picture(images[column * spec.num_classes + row])
            cell = picture.resize((side * squares, side), Image.Resampling.NEAREST)
            sheet.paste(cell, (MARGIN_PX + column * across, row * down))
    return sheet


def lettering(label: int, name: str) -> tuple[str, Font]:
    """A class's name as far as there is room, and a font that has it: Pillow's own, matplotlib's,
    or the system's. Where none has it, the label: "class 3"."""
    usual = ImageFont.load_default()
    if has(usual, name):
        return name[:NAME_LENGTH], usual
    for font in _fonts():
        if has(font, name):
            length = NAME_LENGTH
            while font.getlength(name[:length]) > NAME_PX:
                length -= 1
            return name[:length], font
    return f"class {label}", usual


def has(font: Font, text: str) -> bool:
    """Whether a font has every character of the text."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    missing = bytes(font.getmask(NO_CHARACTER))
    drawn = {c for c in text if not c.isspace() and unicodedata.category(c) != "Cf"}
    return all(bytes(font.getmask(c)) != missing for c in drawn)


def _fonts() -> Iterator[ImageFont.FreeTypeFont]:
    for file in _font_files():
        try:
            yield ImageFont.truetype(file, FONT_PX)
        except OSError:  # damaged, or of pictures
            continue


@functools.cache
def _font_files() -> tuple[str, ...]:
    """matplotlib's (Latin, Greek, Cyrillic, Arabic and more), then the system's."""
    package = importlib.util.find_spec("matplotlib")
    places = (package and package.submodule_search_locations) or ()
    files = [Path(place) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" for place in places]
    for folder in FONT_FOLDERS:
        found = Path(os.path.expanduser(folder)).rglob("*")
        files += sorted(f for f in found if f.suffix.lower() in (".ttf", ".otf", ".ttc"))
    return tuple(map(str, files))
