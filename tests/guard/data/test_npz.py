"""Images that come as an .npz file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from written import all_of, arrays, npz, pixels

from guard.config import DataConfig
from guard.data.datasets import load_data
from guard.errors import DataError


def test_npz_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    splits = load_data(npz(tmp_path))
    test_x, test_y = all_of(splits.test)
    assert torch.equal(test_x[:, 0], torch.from_numpy(arrays()["x_test"]).float() / 255)
    assert torch.equal(test_y, torch.from_numpy(arrays()["y_test"]))
    assert len(splits.train) == len(splits.validation) == 6
    assert splits.spec.class_names == ("0", "1", "2")
    assert (splits.spec.channels, splits.spec.image_size) == (1, 6)


def test_npz_colours_come_last(tmp_path: Path) -> None:
    x = pixels(2, 6, 6, 6, 3)
    splits = load_data(npz(tmp_path, x_train=pixels(3, 12, 6, 6, 3), x_test=x))
    assert torch.equal(splits.test.x, torch.from_numpy(x).permute(0, 3, 1, 2))
    assert splits.spec.channels == 3 and len(splits.spec.mean) == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_npz_labels_may_be_any_whole_numbers(dtype: type, tmp_path: Path) -> None:
    y = (np.arange(12) % 3).astype(dtype)
    splits = load_data(npz(tmp_path, y_train=y))
    assert splits.train.y.dtype == torch.int64
    assert torch.bincount(splits.train.y).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "has no y_test; needs x_train, y_train, x_test, y_test"),
        ({"x_train": pixels(0, 12, 6, 6) / 255}, r"x_train must be uint8 .*got float64"),
        ({"x_train": pixels(0, 12, 36)}, r"x_train must be uint8 .*\(12, 36\)"),
        ({"y_train": np.arange(11) % 3}, r"y_train must be 12 integers, got .*\(11,\)"),
        ({"y_train": np.arange(12) % 3 / 1.0}, "y_train must be 12 integers, got float64"),
        ({"y_train": np.eye(3, dtype=int)[np.arange(12) % 3]}, r"y_train must be .*\(12, 3\)"),
        ({"x_test": pixels(1, 6, 5, 5)}, "must be square and of one size"),
        ({"x_train": pixels(0, 12, 6, 5), "x_test": pixels(0, 6, 6, 5)}, "must be square"),
        ({"x_test": pixels(1, 0, 6, 6), "y_test": np.zeros(0, int)}, "holds no images"),
        ({"x_train": pixels(1, 0, 6, 6), "y_train": np.zeros(0, int)}, "holds no images"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "has one class"),
        ({"y_train": np.arange(12) % 2 * 2}, "label 1 has no images; labels must be 0..2"),
        ({"y_test": np.arange(6) % 2}, "label 2 has no images"),
        ({"y_train": np.arange(12) % 3 - 1}, "y_train has label -1; labels must be 0..K-1"),
        ({"y_train": np.array([0] * 6 + [1] * 5 + [2])}, "label 2 has one training image"),
        ({"x_train": np.array([None] * 12)}, "x_train must be numbers, got Python objects"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = npz(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_data(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"y_test": None}, {"y_train": np.zeros(12)}, {"y_test": np.arange(6) % 2}]
)
def test_bad_arrays_are_refused_by_the_name_of_the_file(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = npz(tmp_path, **changes)
    with pytest.raises(DataError, match=f"^{config.path}: "):
        load_data(config)


def write_text(path: Path) -> None:
    path.write_text("x_train")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, pixels(0, 4, 6, 6))


def write_cut_short(path: Path) -> None:
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-100])


def overwrite(path: Path, marker: bytes, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(marker) + offset
    content[start : start + len(data)] = data
    path.write_bytes(content)


def write_damaged(path: Path) -> None:
    np.savez_compressed(path, **arrays(x_train=np.zeros((12, 6, 6), np.uint8)))
    extra = int.from_bytes(path.read_bytes()[28:30], "little")
    overwrite(path, b"x_train.npy", len("x_train.npy") + extra, b"\xff" * 8)


def write_encrypted(path: Path) -> None:
    np.savez_compressed(path, **arrays())
    overwrite(path, b"PK\x01\x02", 8, b"\x01")


def write_for_another_version(path: Path) -> None:
    np.savez_compressed(path, **arrays())
    overwrite(path, b"PK\x01\x02", 6, b"\xff")


def make_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        write_text,
        write_nothing,
        write_one_array,
        write_cut_short,
        write_damaged,
        write_encrypted,
        write_for_another_version,
        make_folder,
    ],
)
def test_what_is_no_npz_file_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    spoil(path)
    with pytest.raises(DataError, match=rf"^{path}: (not an|damaged) \.npz file"):
        load_data(DataConfig(name="npz", path=str(path)))


def test_a_named_data_set_may_come_as_arrays(tmp_path: Path) -> None:
    changes = {"x_train": pixels(3, 12, 6, 6, 3), "x_test": pixels(2, 6, 6, 6, 3)}
    config = dataclasses.replace(npz(tmp_path, **changes), name="cifar10")
    spec = load_data(config).spec
    assert spec.mean == (0.4914, 0.4822, 0.4465) and spec.std == (0.2023, 0.1994, 0.2010)
    assert spec.num_classes == 3


def test_published_statistics_of_other_channels_are_not_used(tmp_path: Path) -> None:
    spec = load_data(dataclasses.replace(npz(tmp_path), name="cifar10")).spec
    expected = arrays()["x_train"] / 255
    assert spec.mean == pytest.approx((expected.mean(),))
    assert spec.std == pytest.approx((expected.std(),))


def test_arrays_are_not_resized(tmp_path: Path) -> None:
    config = npz(tmp_path)
    assert load_data(dataclasses.replace(config, image_size=6)).spec.image_size == 6
    with pytest.raises(DataError, match=r"^data\.image_size: .* holds 6 px arrays, got 4"):
        load_data(dataclasses.replace(config, image_size=4))
