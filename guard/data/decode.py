"""One image file to 8-bit pixels, grey or RGB, whatever depth, palette or alpha it is stored with.

Integers are scaled by their depth, floats in [0, 1] are taken as such, transparent pixels lie on
white, and EXIF's orientation is applied. Of an animation the first frame is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from guard.data.names import shown
from guard.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is read, whatever the suffix says: no format whose reader starts a program or guesses."""
SUFFIXES = frozenset(
    ".jpeg .jpg .jpe .jfif .png .apng .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm .pfm "
    ".avif .jp2".split()
)
"""Files of a tree that are taken for images."""
DEEP = frozenset({"F", "I", "I;16", "I;16L", "I;16B", "I;16N"})
"""Modes of Pillow with more than 8 bits; its own conversion cuts them off at 255."""
GREY = DEEP | {"1", "L", "LA", "La"}
SIGNED, WHITE_IS_ZERO = 2, 0
"""Of TIFF's tags SampleFormat and PhotometricInterpretation."""


def open_image(path: Path, channels: int) -> Image.Image:
    """Decode one image file as RGB, or as grey where `channels` is 1. Raises DataError that names
    the file if it cannot be read, or has colour where grey is wanted."""
    with _opened(path) as stored:
        image = _eight_bits(stored)
        if channels == 3:
            return image.convert("RGB")
        if not _is_colourless(image):
            raise ValueError("it has colour, where the data set is grey")
        return image.getchannel(0)


def is_grey(path: Path) -> bool:
    """Whether an image file is stored as grey, by its header alone. Raises DataError that names a
    file that is no image."""
    with _opened(path) as stored:
        if stored.mode == "P":
            return _is_colourless(stored.copy().convert("RGB"))
        return stored.mode in GREY


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        # by a handle: given a path, Pillow maps TIFF files into memory, and turned ones wrongly
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        reason = f"none of {', '.join(FORMATS)}"
    except MemoryError:
        reason = "too large for the memory"
    except Exception as error:  # damaged files make Pillow's decoders raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    else:
        return
    raise DataError(f"{shown(path)}: not a readable image ({shown(reason)})")


def _eight_bits(stored: Image.Image) -> Image.Image:
    """Upright, as "L" or "RGB". Raises ValueError for pixels that have no scale, and what Pillow
    raises."""
    stored.load()
    with contextlib.suppress(Exception):  # damaged EXIF data say nothing of the orientation
        ImageOps.exif_transpose(stored, in_place=True)
    if stored.mode in DEEP:
        return _scaled(stored)
    if stored.has_transparency_data:
        over = stored.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return stored.convert("L" if stored.mode in GREY else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Grey pixels of more than 8 bits on the 8-bit scale, rounded to the nearest level. Raises
    ValueError for floats outside [0, 1] and for negative integers."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    levels, top, bits = np.asarray(image), 1, 32
    if image.mode != "F":
        bits = tags.get(BITSPERSAMPLE, (16,))[0]  # Pillow scales PNG, PGM and JPEG 2000 to 16
        is_signed = tags.get(SAMPLEFORMAT, (1,))[0] == SIGNED
        levels = levels.view(np.uint32) if bits == 32 and not is_signed else levels
        top = 2 ** (bits - is_signed) - 1
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= top):
        kind = "float" if image.mode == "F" else f"{bits}-bit"
        raise ValueError(f"{kind} pixels must be in 0..{top}, got {low:g} to {high:g}")
    shares = levels / top
    if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        shares = 1 - shares
    if "transparency" in image.info:
        shares[levels == image.info["transparency"]] = 1
    return Image.fromarray(np.rint(shares * 255).astype(np.uint8))


def _is_colourless(image: Image.Image) -> bool:
    bands = [np.asarray(band) for band in image.split()]
    return all(np.array_equal(bands[0], band) for band in bands[1:])
