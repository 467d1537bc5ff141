"""Images that come as an .npz file."""

from __future__ import annotations

import dataclasses
import io
import zipfile
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


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64, np.dtype(">i4")])
def test_npz_labels_may_be_any_whole_numbers(dtype: Any, tmp_path: Path) -> None:
    y = (np.arange(12) % 3).astype(dtype)
    splits = load_data(npz(tmp_path, y_train=y))
    assert splits.train.y.dtype == torch.int64
    assert torch.bincount(splits.train.y).tolist() == [2, 2, 2]


def test_npz_labels_may_be_a_column_as_keras_has_them(tmp_path: Path) -> None:
    y = {name: arrays()[name] for name in ("y_train", "y_test")}
    splits = load_data(npz(tmp_path, **{name: column[:, None] for name, column in y.items()}))
    assert splits.test.y.tolist() == y["y_test"].tolist()
    assert torch.bincount(splits.train.y).tolist() == [2, 2, 2]


def test_npz_images_may_lie_column_by_column(tmp_path: Path) -> None:
    x = pixels(2, 6, 6, 6, 3)
    changes = {"x_train": np.asfortranarray(pixels(3, 12, 6, 6, 3)), "x_test": np.asfortranarray(x)}
    splits = load_data(npz(tmp_path, **changes))
    assert torch.equal(splits.test.x, torch.from_numpy(x).permute(0, 3, 1, 2))


def test_npz_may_bring_a_validation_set(tmp_path: Path) -> None:
    x, y = pixels(4, 3, 6, 6), np.arange(3)
    config = npz(tmp_path, x_val=x, y_val=y)
    splits = load_data(config)
    assert torch.equal(splits.validation.x[:, 0], torch.from_numpy(x))
    assert (len(splits.train), len(splits.test), splits.notes) == (12, 6, ())
    (tmp_path / "plain").mkdir()
    assert load_data(npz(tmp_path / "plain")).sha256 != splits.sha256
    with pytest.raises(DataError, match="has no y_val; needs x_train, "):
        load_data(dataclasses.replace(npz(tmp_path / "plain", x_val=x), split_seed=1))


def test_arrays_that_are_not_used_are_named(tmp_path: Path) -> None:
    config = npz(tmp_path, mean=np.zeros(3), history=np.zeros(3))
    assert load_data(config).notes == (f"left out of {config.path}: mean, history",)


HUGE = 10**9


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
        (
            {"y_train": np.arange(12) % 3 * HUGE},
            r"y_train has label 2000000000 and 12 images; .*K-1",
        ),
        ({"y_test": np.arange(6) % 3 * HUGE}, "y_test has label 2000000000, which y_train has not"),
        ({"y_train": np.full(12, 2**64 - 1, np.uint64)}, "y_train has label 18446744073709551615"),
        ({"y_train": np.arange(12) % 2 > 0}, "y_train must be 12 integers, got bool"),
        ({"y_train": np.array(list("abc") * 4)}, "y_train must be 12 integers, got <U1"),
        ({"y_train": np.int64(3)}, r"y_train must be 12 integers, got int64 \(\)"),
        ({"y_train": np.array([{}] * 12)}, "y_train must be numbers, got Python objects"),
        ({"x_train": np.uint8(3)}, r"x_train must be uint8 .*got uint8 \(\)"),
        ({"x_train": np.zeros((12, 0, 0), np.uint8)}, r"x_train must be uint8 .*\(12, 0, 0\)"),
        ({"x_train": np.zeros((12, 6, 6, 0), np.uint8)}, r"x_train must be .*\(12, 6, 6, 0\)"),
        ({"x_train": np.zeros(12, "u1,u1")}, r"x_train must be uint8 .*\(12,\)"),
        ({"x_train": pixels(0, 12, 6, 6) / 255}, r"np\.rint\(255 \* x\)\.astype\(np\.uint8\)"),
        ({"x_test": pixels(1, 6, 6, 6, 3)}, "x_train has 6x6x1, x_test has 6x6x3"),
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


NAMES = ("x_train", "y_train", "x_test", "y_test")


@pytest.mark.parametrize("suffix", ["", ".npy"])
def test_members_that_are_no_arrays_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name in NAMES:
            file.writestr(name + suffix, "text")
    with pytest.raises(DataError, match=rf"^{path}: x_train is no array of numpy's"):
        load_data(DataConfig(path=str(path)))


def test_arrays_larger_than_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guard.data.readers.memory_bytes", lambda: 1000)
    config = npz(tmp_path)
    with pytest.raises(DataError, match=rf"^{config.path}: its arrays take .* GiB, this machine"):
        load_data(config)


def test_an_array_that_claims_more_than_it_has_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    head = io.BytesIO()
    claimed = {"descr": "|u1", "fortran_order": False, "shape": (10**15, 6, 6)}
    np.lib.format.write_array_header_1_0(head, claimed)
    with zipfile.ZipFile(path, "w") as file:
        for name in NAMES:
            file.writestr(f"{name}.npy", head.getvalue())
    with pytest.raises(DataError, match=rf"^{path}: damaged \.npz file \(x_train: "):
        load_data(DataConfig(path=str(path)))


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
