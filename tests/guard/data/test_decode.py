"""One image file, whatever it is stored as."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from written import pixels

from guard.data.decode import FORMATS, SUFFIXES, is_grey, open_image
from guard.errors import DataError

GREY = pixels(0, 6, 5)
COLOUR = pixels(1, 6, 5, 3)
MASK = np.where(GREY > 128, 255, 0).astype(np.uint8)


def tiff(levels: np.ndarray, sample_format: int = 1, photometric: int = 1) -> bytes:
    """An uncompressed grey TIFF file (6.0) of one strip, in the byte order of the array."""
    big = levels.dtype.byteorder == ">"
    order, data, (height, width) = ">" if big else "<", levels.tobytes(), levels.shape
    bits = 8 * levels.dtype.itemsize
    shorts = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height}
    entries = [(tag, 3, struct.pack(order + "HH", value, 0)) for tag, value in shorts.items()]
    entries += [(tag, 4, struct.pack(order + "I", v)) for tag, v in ((273, 8), (279, len(data)))]
    entries += [(339, 3, struct.pack(order + "HH", sample_format, 0))]
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8 + len(data)) + data
    rows = [
        struct.pack(order + "HHI", tag, kind, 1) + value for tag, kind, value in sorted(entries)
    ]
    return head + struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4)


def png(levels: np.ndarray, colour_type: int, *chunks: bytes) -> bytes:
    """A PNG file of 16 bits a sample."""
    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *chunks,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


WIDE = GREY.astype(np.int64)
DEEP: dict[str, bytes] = {
    "16.png": png(WIDE * 257, 0),
    "16.tif": tiff((WIDE * 257).astype("<u2")),
    "big-endian.tif": tiff((WIDE * 257).astype(">u2")),
    "white-is-zero.tif": tiff((65535 - WIDE * 257).astype("<u2"), photometric=0),
    "signed-16.tif": tiff(np.rint(WIDE / 255 * 32767).astype("<i2"), 2),
    "32.tif": tiff((WIDE * 16843009).astype("<u4")),
    "signed-32.tif": tiff(np.rint(WIDE / 255 * (2**31 - 1)).astype("<i4"), 2),
    "float.tif": tiff((WIDE / 255).astype("<f4"), 3),
    "float-white-is-zero.tif": tiff((1 - WIDE / 255).astype("<f4"), 3, 0),
    "16.pgm": b"P5\n5 6\n65535\n" + (WIDE * 257).astype(">u2").tobytes(),
    "float.pfm": b"Pf\n5 6\n-1.0\n" + (WIDE / 255).astype("<f4")[::-1].tobytes(),
}


@pytest.mark.parametrize("name", DEEP)
def test_grey_of_any_depth_is_scaled_to_eight_bits(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DEEP[name])
    assert is_grey(tmp_path / name)
    assert np.array_equal(open_image(tmp_path / name, 1), GREY)
    assert np.array_equal(open_image(tmp_path / name, 3), np.stack([GREY] * 3, axis=-1))


def test_levels_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 128, 129, 65407, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png", 1)).tolist() == [[0, 0, 1, 255, 255]]


def test_colours_of_sixteen_bits_are_kept(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(COLOUR.astype(int) * 257, 2))
    assert np.array_equal(open_image(tmp_path / "x.png", 3), COLOUR)


@pytest.mark.parametrize(
    ("levels", "kind", "message"),
    [
        (WIDE.astype("<f4") + 0.5, 3, r"float pixels must be in 0\.\.1, got "),
        (np.full((6, 5), np.nan, "<f4"), 3, "got nan to nan"),
        (np.full((6, 5), np.inf, "<f4"), 3, "got inf to inf"),
        (WIDE.astype("<f4") / 255 - 0.1, 3, r"got -0\.\d+ to"),
        (WIDE.astype("<i2") - 100, 2, r"16-bit pixels must be in 0\.\.32767, got -\d+ to"),
    ],
)
def test_pixels_without_a_scale_are_refused_by_file(
    levels: np.ndarray, kind: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(levels, kind))
    with pytest.raises(DataError, match=rf"^{path}: not a readable image \(.*{message}"):
        open_image(path, 1)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(int)


@pytest.mark.parametrize("alpha", [MASK, GREY], ids=["mask", "levels"])
def test_what_is_transparent_lies_on_white(alpha: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "rgba.png")
    shown = np.asarray(open_image(tmp_path / "rgba.png", 3), int)
    assert np.abs(shown - on_white(COLOUR, alpha)).max() <= 1
    black = np.zeros_like(GREY)
    Image.fromarray(np.dstack([black, alpha]), "LA").save(tmp_path / "la.png")
    strokes = np.asarray(open_image(tmp_path / "la.png", 1), int)
    assert np.abs(strokes - (255 - alpha.astype(int))).max() <= 1


def test_a_transparent_level_or_palette_entry_is_white(tmp_path: Path) -> None:
    level = int(GREY[2, 3])
    expected = np.where(GREY == level, 255, GREY)
    Image.fromarray(GREY).save(tmp_path / "8.png", transparency=level)
    Image.fromarray(GREY).convert("P").save(tmp_path / "p.png", transparency=level)
    key = chunk(b"tRNS", struct.pack(">H", level * 257))
    (tmp_path / "16.png").write_bytes(png(WIDE * 257, 0, key))
    for name in ("8.png", "p.png", "16.png"):
        assert np.array_equal(open_image(tmp_path / name, 1), expected), name


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    bands = np.zeros((32, 48), np.uint8)
    bands[:16, :24], bands[:16, 24:], bands[16:, :24] = 80, 160, 240
    turns: list[Callable[[Any], Any]] = [
        lambda x: x,
        np.fliplr,
        lambda x: np.rot90(x, 2),
        np.flipud,
        np.transpose,
        lambda x: np.rot90(x, -1),
        lambda x: np.rot90(x, 2).T,
        np.rot90,
    ]
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"x.{suffix}"
    quality = {} if suffix in ("png", "tif") else {"quality": 95}
    Image.fromarray(bands).save(path, exif=exif, **quality)
    seen, expected = np.asarray(open_image(path, 1), int), turns[orientation - 1](bands)
    assert seen.shape == expected.shape
    assert np.abs(seen - expected)[4:-4:8, 4:-4:8].max() < 12


def test_damaged_exif_data_do_not_hide_an_image(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.jpg", exif=b"Exif\0\0rubbish", quality=100)
    assert open_image(tmp_path / "x.jpg", 3).size == (5, 6)


def test_colour_is_not_made_grey_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(COLOUR).save(path)
    with pytest.raises(DataError, match=rf"^{path}: .*has colour, where the data set is grey"):
        open_image(path, 1)
    Image.fromarray(np.stack([GREY] * 3, axis=-1)).save(path)
    assert np.array_equal(open_image(path, 1), GREY)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_rgb(mode: str, tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    flat.convert(mode).save(tmp_path / "x.jpg", quality=100)
    seen = np.asarray(open_image(tmp_path / "x.jpg", 3), int)
    assert np.abs(seen - [200, 40, 90]).max() <= 3


@pytest.mark.parametrize(
    ("stored", "grey"), [("1", True), ("L", True), ("LA", True), ("P", False), ("RGB", False)]
)
def test_what_is_stored_as_grey(stored: str, grey: bool, tmp_path: Path) -> None:
    Image.fromarray(COLOUR).convert(stored).save(tmp_path / "x.png")
    assert is_grey(tmp_path / "x.png") is grey


def test_a_palette_of_grey_levels_is_grey(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.gif")
    assert is_grey(tmp_path / "x.gif")
    assert np.array_equal(open_image(tmp_path / "x.gif", 1), GREY)


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(seed, 6, 5)) for seed in (3, 4)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(open_image(tmp_path / "x.gif", 1), pixels(3, 6, 5))


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pfm"}))
def test_every_suffix_of_a_tree_can_be_read(suffix: str, tmp_path: Path) -> None:
    flat = Image.new("1" if suffix == ".pbm" else "L", (16, 16), 255)
    path = tmp_path / f"x{suffix}"
    flat.save(path, format="PPM" if suffix in (".pgm", ".pbm", ".pnm") else None)
    assert np.asarray(open_image(path, 1), int).min() >= 253


def test_formats_whose_readers_start_programs_are_not_read(tmp_path: Path) -> None:
    assert not {"EPS", "WMF", "GRIB", "HDF5", "BUFR"} & set(FORMATS)
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n")
    with pytest.raises(DataError, match=rf"^{path}: not a readable image \(none of JPEG, "):
        open_image(path, 3)


@pytest.mark.parametrize("format", ["AVIF", "JPEG", "PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_damaged_file_of_any_format_is_named(format: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels(5, 64, 64, 3)).save(path, format=format)
    whole = path.read_bytes()
    assert open_image(path, 3).size == (64, 64)
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=rf"^{path}: not a readable image \(.+\)$"):
        open_image(path, 3)


def test_a_name_that_is_no_text_is_shown_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9\n.png"
    path.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        open_image(path, 3)
    assert str(caught.value).startswith(f"{tmp_path}/caf\\xe9\\n.png: not a readable image")
