"""Images as pictures, whatever channels and names they have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from guard import pictures
from guard.data.spec import ImageSpec
from guard.pictures import contact_sheet, has, lettering, to_picture
from helpers import draws


def spec_of(channels: int, *names: str, size: int = 6) -> ImageSpec:
    values = (0.5,) * channels
    return ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=len(names),
        mean=values,
        std=values,
        class_names=names,
    )


@pytest.mark.parametrize("channels", [2, 4, 5, 12])
def test_channels_that_are_no_colours_lie_side_by_side_in_grey(channels: int) -> None:
    image = torch.rand(channels, 3, 4, generator=draws())
    picture = to_picture(image)
    assert (picture.mode, picture.size) == ("L", (4 * channels, 3))
    seen = torch.from_numpy(np.array(picture)).float() / 255
    assert (
        seen.unflatten(1, (channels, 4)).transpose(0, 1) - image
    ).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("channels", "columns"), [(1, 4), (2, 4), (3, 4), (4, 2), (5, 2), (30, 1)])
def test_a_sheet_of_any_channels(channels: int, columns: int) -> None:
    images = torch.rand(8, channels, 6, 6, generator=draws())
    sheet = contact_sheet(images, spec_of(channels, "a", "b"))
    squares = 1 if channels in (1, 3) else channels
    assert sheet.size == (90 + columns * (48 * squares + 2), 100)
    left = 90 + (columns - 1) * (48 * squares + 2)
    cell = sheet.crop((left, 50, left + 48 * squares, 98)).resize((6 * squares, 6), 0)
    expected = to_picture(images[(columns - 1) * 2 + 1]).convert("RGB")
    assert np.array_equal(np.array(cell), np.array(expected))


def drawn(name: str) -> np.ndarray:
    sheet = contact_sheet(torch.ones(1, 3, 6, 6), spec_of(3, name))
    return np.array(sheet.crop((0, 0, 90, 50)).convert("L"))


def test_names_in_ascii_are_drawn_as_ever() -> None:
    for name in ("cat", "T-shirt/top", "a\nb", "", "a name too long for it"):
        text, font = lettering(7, name)
        assert text == name[:13]
        assert font.getname() == ImageFont.load_default().getname()


@pytest.mark.parametrize("name", ["кошка", "γάτα", "Ñandú", "قطة", "חתול"])
def test_names_in_other_scripts_are_drawn(name: str) -> None:
    text, font = lettering(7, name)
    assert text == name and has(font, name)
    assert not has(ImageFont.load_default(), name)
    assert not np.array_equal(drawn(name), drawn(name[::-1][:-1]))


def test_a_long_name_stays_beside_the_images() -> None:
    text, font = lettering(0, "Щ" * 30)
    assert 4 < len(text) < 13 and font.getlength(text) <= 84
    assert lettering(0, "і" * 30)[0] == "і" * 13


def test_a_name_that_no_font_has_is_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_font_files", lambda: ("/nowhere.ttf", __file__))
    assert lettering(7, "кошка")[0] == "class 7"
    assert lettering(7, "cat")[0] == "cat"


def test_fonts_of_the_system_come_after_that_of_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.TTF", "a.otf", "c.txt"):
        (tmp_path / "deep" / name).write_bytes(b"")
    monkeypatch.setattr(pictures, "FONT_FOLDERS", (str(tmp_path), str(tmp_path / "nowhere")))
    files = pictures._font_files.__wrapped__()
    assert [Path(file).name for file in files] == ["DejaVuSans.ttf", "a.otf", "b.TTF"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [Path(file).name for file in pictures._font_files.__wrapped__()] == ["a.otf", "b.TTF"]


def test_a_font_is_known_by_what_it_draws() -> None:
    usual = ImageFont.load_default()
    assert has(usual, "cat") and has(usual, "a b\n") and has(usual, "")
    assert not has(usual, "caté") and not has(usual, "日本")
    assert isinstance(to_picture(torch.zeros(1, 2, 2)), Image.Image)
