"""Image files: those that cannot be read are named, the others are made square."""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written import noise

from guard.data.decode import open_image
from guard.data.images import FileImages, to_square
from guard.errors import DataError
from helpers import CPU


def write_text(path: Path) -> None:
    path.write_text("no image")


def write_truncated(path: Path) -> None:
    Image.fromarray(noise(1)[0].permute(1, 2, 0).numpy()).save(path)
    path.write_bytes(path.read_bytes()[:-40])


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def leave_missing(path: Path) -> None:
    assert not path.exists()


def write_impossible_size(path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (2**20).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)


def failure_of(images: FileImages) -> str:
    """The error's text. Frames left to the garbage collector delay the workers' end by 5 s."""
    try:
        list(images.batches(1, CPU))
    except DataError as error:
        for seen in filter(None, (error, error.__context__)):
            traceback.clear_frames(seen.__traceback__)
        return str(error)
    return "none"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_in_a_stream_is_named_in_one_line(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    write_text(path)
    message = failure_of(
        FileImages(
            files=(str(path),), y=torch.tensor([0]), channels=3, image_size=6, num_workers=workers
        )
    )
    assert message.startswith(f"{path}: not a readable image")
    assert "\n" not in message


@pytest.mark.parametrize(
    "spoil", [write_text, write_truncated, write_nothing, leave_missing, write_impossible_size]
)
def test_an_unreadable_image_is_named(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    spoil(path)
    with pytest.raises(DataError) as caught:
        open_image(path, 3)
    assert str(caught.value).startswith(f"{path}: not a readable image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("stored", ["RGB", "L", "RGBA", "P"])
def test_images_are_opened_as_grey_or_rgb(
    channels: int, mode: str, stored: str, tmp_path: Path
) -> None:
    Image.new(stored, (5, 4), 0).save(tmp_path / "x.png")
    assert open_image(tmp_path / "x.png", channels).mode == mode


def test_an_image_of_the_right_size_is_kept_as_it_is() -> None:
    pixels = noise(1)[0]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    assert torch.equal(to_square(image, 6), pixels)


@pytest.mark.parametrize("wide", [True, False])
def test_the_short_side_is_resized_and_the_middle_kept(wide: bool) -> None:
    bands = np.repeat(np.array([0, 100, 200], np.uint8), 40)
    pixels = np.broadcast_to(bands, (60, 120)) if wide else np.broadcast_to(bands, (60, 120)).T
    square = to_square(Image.fromarray(np.ascontiguousarray(pixels)), 12)[0]
    line = square[0] if wide else square[:, 0]
    assert square.shape == (12, 12)
    assert torch.equal(square, (line[None] if wide else line[:, None]).expand(12, 12))
    assert [line[0], line[6], line[-1]] == [0, 100, 200]
    assert torch.equal(line.int(), 200 - line.flip(0).int())


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (3, 50), (100, 99), (1, 1)])
def test_any_shape_becomes_a_square(shape: tuple[int, int]) -> None:
    image = Image.fromarray(np.full(shape, 77, np.uint8))
    assert torch.equal(to_square(image, 9), torch.full((1, 9, 9), 77, dtype=torch.uint8))
