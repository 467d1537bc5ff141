from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image

from guard.config import DataConfig, DatasetName
from guard.config.schema import type_hints
from guard.data.datasets import DATASETS, load_data, resolve, stage_data
from guard.data.images import FileImages, Splits, TensorImages
from guard.errors import DataError
from guard.stage import Stage

CPU = torch.device("cpu")
CLASSES = ("cat", "dog")


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    good = {
        "x_train": pixels(0, 12, 6, 6),
        "y_train": np.arange(12) % 3,
        "x_test": pixels(1, 6, 6, 6),
        "y_test": np.arange(6) % 3,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def npz(folder: Path, **changes: Any) -> DataConfig:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays(**changes))
    return DataConfig(name="npz", path=str(path), validation_fraction=0.5)


def write_image(path: Path, seed: int, size: int = 6) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels(seed, size, size, 3)
    Image.fromarray(image).save(path)
    return image


def write_tree(
    root: Path,
    held_out: str = "val",
    per_class: int = 4,
    classes: tuple[str, ...] = CLASSES,
    suffix: str = "png",
) -> np.ndarray:
    """A tree of PNG files; the training images in order, (N, H, W, 3)."""
    written = [
        write_image(root / "train" / name / f"{number}.{suffix}", 10 * label + number)
        for label, name in enumerate(classes)
        for number in range(per_class)
    ]
    for label, name in enumerate(classes):
        for number in range(2):
            write_image(root / held_out / name / f"{number}.{suffix}", 100 + 10 * label + number)
    return np.stack(written)


def tree_config(root: Path, **changes: Any) -> DataConfig:
    values = {"name": "folder", "path": str(root), "validation_fraction": 0.25}
    return DataConfig(**{**values, **changes})


def all_of(images: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*images.batches(5, CPU), strict=True)
    return torch.cat(x), torch.cat(y)


def as_set(x: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def test_every_name_of_the_config_is_a_row() -> None:
    assert set(DATASETS) == set(DatasetName.__args__)
    assert type_hints(DataConfig)["name"] is DatasetName


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data(DataConfig(name="digits", validation_fraction=0.2))


def test_digits_are_all_there_in_disjoint_splits(digits: Splits) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    parts = [digits.train, digits.validation, digits.test]
    assert sum(map(len, parts)) == 1797
    expected = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    pairs = sorted(zip([i.tobytes() for i in expected], bunch.target.tolist(), strict=True))
    found = sorted(
        (image.numpy().tobytes(), label)
        for part in parts
        for image, label in zip(part.x, part.y.tolist(), strict=True)
    )
    assert found == pairs
    assert digits.spec.num_values == 64
    assert (digits.spec.channels, digits.spec.image_size, digits.spec.num_classes) == (1, 8, 10)
    assert digits.spec.class_names == tuple("0123456789")


def test_digits_are_split_within_each_class(digits: Splits) -> None:
    counts = [torch.bincount(p.y) for p in (digits.train, digits.validation, digits.test)]
    total = sum(counts)
    assert torch.equal(counts[2], (total * 0.2).round().long())
    assert torch.equal(counts[1], ((total - counts[2]) * 0.2).round().long())


def test_digits_statistics_are_those_of_the_training_images(digits: Splits) -> None:
    official = torch.cat([digits.train.x, digits.validation.x]).double() / 255
    assert digits.spec.mean == pytest.approx((float(official.mean()),))
    assert digits.spec.std == pytest.approx((float(official.std(correction=0)),))


def test_a_split_seed_moves_validation_and_leaves_test_alone(digits: Splits) -> None:
    config = DataConfig(name="digits", validation_fraction=0.2)
    other = load_data(dataclasses.replace(config, split_seed=1))
    load_data.cache_clear()
    again = load_data(config)
    assert torch.equal(other.test.x, digits.test.x)
    assert not torch.equal(other.validation.x, digits.validation.x)
    assert as_set(torch.cat([other.train.x, other.validation.x])) == as_set(
        torch.cat([digits.train.x, digits.validation.x])
    )
    for split in ("train", "validation", "test"):
        assert torch.equal(again.named(split).x, digits.named(split).x)
        assert torch.equal(again.named(split).y, digits.named(split).y)
    assert again.sha256 == other.sha256 == digits.sha256


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
        ({"y_train": np.arange(12) % 3 - 1}, "label -1 has no images"),
        ({"y_train": np.array([0] * 6 + [1] * 5 + [2])}, "class 2 has one training image"),
        ({"x_train": np.array([None] * 12)}, r"damaged \.npz file"),
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


@pytest.mark.parametrize("name", ["npz", "folder", "cifar10", "digits"])
def test_a_path_that_does_not_exist_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.npz"
    with pytest.raises(DataError, match=rf"^data\.path: {path} does not exist"):
        load_data(DataConfig(name=name, path=str(path)))


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


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_tree_of_files_is_read_by_folder(held_out: str, tmp_path: Path) -> None:
    written = write_tree(tmp_path, held_out)
    splits = load_data(tree_config(tmp_path))
    assert splits.spec.class_names == CLASSES
    assert (splits.spec.channels, splits.spec.image_size, splits.spec.num_classes) == (3, 6, 2)
    parts = [splits.train, splits.validation]
    assert [len(part) for part in parts] == [6, 2]
    x = torch.cat([part.x for part in parts])
    assert as_set(x) == as_set(torch.from_numpy(written).permute(0, 3, 1, 2).contiguous())
    expected = torch.from_numpy(pixels(110, 6, 6, 3)).permute(2, 0, 1)
    assert torch.equal(splits.test.x[2], expected)
    assert splits.test.y.tolist() == [0, 0, 1, 1]
    assert splits.spec.mean == pytest.approx((written.reshape(-1, 3) / 255).mean(axis=0))


def test_a_test_folder_goes_before_a_val_folder(tmp_path: Path) -> None:
    write_tree(tmp_path, "val")
    for name in CLASSES:
        write_image(tmp_path / "test" / name / "only.png", 7)
    assert len(load_data(tree_config(tmp_path)).test) == 2


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "list.csv").write_text("hello")
    assert len(load_data(tree_config(tmp_path)).train) == 6


def spoil_train(root: Path) -> None:
    (root / "train").rename(root / "trian")


def spoil_val(root: Path) -> None:
    (root / "val").rename(root / "valid")


def spoil_all_images(root: Path) -> None:
    for path in (root / "train").rglob("*.png"):
        path.unlink()


def spoil_val_images(root: Path) -> None:
    for path in (root / "val").rglob("*.png"):
        path.unlink()


def spoil_one_class(root: Path) -> None:
    for path in (root / "train" / "dog").rglob("*.png"):
        path.unlink()


def spoil_an_image(root: Path) -> None:
    (root / "train" / "dog" / "2.png").write_bytes(b"broken")


def add_unknown_class(root: Path) -> None:
    write_image(root / "val" / "emu" / "0.png", 5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_train, r"^data\.path: folder needs a folder with train/ and val/ or test/, got /"),
        (spoil_val, r"^data\.path: /.* needs val/ or test/ with a folder a class"),
        (spoil_all_images, r"^/.*/train: holds no images"),
        (spoil_val_images, r"^/.*/val: holds no images"),
        (spoil_one_class, r"^/.*: label 1 has no images"),
        (spoil_an_image, r"^/.*/train/dog/2\.png: not a readable image"),
        (add_unknown_class, r"^/.*/val: has class 'emu', which train/ has not"),
    ],
)
def test_a_spoilt_tree_is_refused_by_name(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write_tree(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_data(tree_config(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tree_of_one_class_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match="has one class"):
        load_data(tree_config(tmp_path))


@pytest.mark.parametrize("name", ["folder", "npz", "tiny-imagenet"])
def test_a_data_set_without_a_source_needs_a_path(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("guard.data.datasets.DEFAULT_ROOT", tmp_path)
    with pytest.raises(DataError, match=rf"^data\.path: {name} needs .*got no path"):
        load_data(DataConfig(name=name))


def write_tiny_imagenet(root: Path) -> None:
    """The official layout: train/<class>/images/, and a flat val/ with annotations."""
    for label, name in enumerate(("n01", "n02")):
        for number in range(3):
            write_image(root / "train" / name / "images" / f"{name}_{number}.JPEG", label, 64)
        (root / "train" / name / f"{name}_boxes.txt").write_text("0 0 1 1")
    rows = []
    for number, name in enumerate(("n02", "n01", "n02")):
        file = f"val_{number}.JPEG"
        write_image(root / "val" / "images" / file, 50 + number, 64)
        rows.append(f"{file}\t{name}\t0\t32\t44\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    for number in range(2):
        write_image(root / "test" / "images" / f"test_{number}.JPEG", 90, 64)


def test_tiny_imagenet_is_read_in_its_official_layout(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    splits = load_data(tree_config(tmp_path, name="tiny-imagenet"))
    assert splits.spec.class_names == ("n01", "n02")
    assert splits.spec.mean == (0.4802, 0.4481, 0.3975)
    assert splits.spec.image_size == 64
    assert len(splits.train) + len(splits.validation) == 6
    assert splits.test.y.tolist() == [1, 0, 1]
    with Image.open(tmp_path / "val" / "images" / "val_1.JPEG") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(splits.test.x[1], expected)


def test_annotations_of_classes_that_were_left_out_are_passed_over(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    rows = (tmp_path / "val" / "val_annotations.txt").read_text()
    (tmp_path / "val" / "val_annotations.txt").write_text("val_9.JPEG\tn03\t0\t0\t9\t9\n" + rows)
    splits = load_data(tree_config(tmp_path, name="tiny-imagenet"))
    assert splits.test.y.tolist() == [1, 0, 1]


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
def test_an_annotated_image_that_is_missing_is_named(max_tensor_gib: float, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    (tmp_path / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(DataError, match=r"val_1\.JPEG"):
        load_data(tree_config(tmp_path, name="tiny-imagenet", max_tensor_gib=max_tensor_gib))


def test_streaming_yields_the_images_that_memory_does(tmp_path: Path) -> None:
    write_tree(tmp_path)
    memory, stream = (load_data(tree_config(tmp_path, max_tensor_gib=limit)) for limit in (1.2, 0))
    for split in ("train", "test"):
        assert isinstance(memory.named(split), TensorImages)
        assert isinstance(stream.named(split), FileImages)
        pairs = zip(all_of(memory.named(split)), all_of(stream.named(split)), strict=True)
        assert all(torch.equal(held, streamed) for held, streamed in pairs)
    assert torch.equal(memory.validation.y, stream.validation.y)


def test_the_limit_for_memory_is_on_the_size_of_the_tensors(tmp_path: Path) -> None:
    write_tree(tmp_path)
    size = 12 * 3 * 6 * 6 / 2**30
    for limit, kind in ((size, TensorImages), (size * 0.999, FileImages)):
        splits = load_data(tree_config(tmp_path, max_tensor_gib=limit))
        assert type(splits.train) is type(splits.test) is kind


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
def test_image_files_are_resized(max_tensor_gib: float, tmp_path: Path) -> None:
    write_tree(tmp_path)
    config = tree_config(tmp_path, image_size=4, max_tensor_gib=max_tensor_gib)
    splits = load_data(config)
    assert splits.spec.image_size == 4
    with Image.open(tmp_path / "val" / "cat" / "0.png") as image:
        expected = np.array(image.resize((4, 4), Image.Resampling.BILINEAR))
    x, _ = all_of(splits.test)
    assert torch.equal(x[0], torch.from_numpy(expected).permute(2, 0, 1).float() / 255)


def test_arrays_are_not_resized(tmp_path: Path) -> None:
    config = npz(tmp_path)
    assert load_data(dataclasses.replace(config, image_size=6)).spec.image_size == 6
    with pytest.raises(DataError, match=r"^data\.image_size: .* holds 6 px arrays, got 4"):
        load_data(dataclasses.replace(config, image_size=4))


def test_other_content_than_the_configured_is_refused(tmp_path: Path) -> None:
    config = resolve(npz(tmp_path))
    assert len(config.sha256) == 64
    assert load_data(config).sha256 == config.sha256
    changed = arrays()["x_test"].copy()
    changed[0, 0, 0] ^= 1
    (tmp_path / "other").mkdir()
    other = npz(tmp_path / "other", x_test=changed)
    with pytest.raises(DataError, match=rf"^data\.sha256: .*{config.sha256[:12]}"):
        load_data(dataclasses.replace(other, sha256=config.sha256))


def test_the_content_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert resolve(npz(tmp_path)).sha256 == resolve(npz(tmp_path / "other")).sha256
    trees = [tmp_path / "a", tmp_path / "b"]
    for limit in (1.2, 0):
        for root in trees:
            write_tree(root)
        first, second = (resolve(tree_config(root, max_tensor_gib=limit)) for root in trees)
        assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": pixels(8, 12, 6, 6)},
        {"y_train": (np.arange(12) + 1) % 3},
        {"y_test": (np.arange(6) + 1) % 3},
    ],
)
def test_any_change_of_the_arrays_changes_the_content(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    assert resolve(npz(tmp_path)).sha256 != resolve(npz(tmp_path / "other", **changes)).sha256


def test_a_stage_reads_the_data_from_its_place(tmp_path: Path) -> None:
    config = resolve(npz(tmp_path))
    stage = Stage.of("any", 1, {}, data=config)
    assert stage.config["data"]["path"] == ""
    assert stage_data(stage).sha256 == config.sha256
    unresolved = Stage.of("any", 1, {}, data=npz(tmp_path))
    assert stage_data(unresolved).sha256 == config.sha256


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_fashion_mnist_is_read_by_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    x, y = pixels(4, 20, 28, 28), (np.arange(20) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", x), ("labels-idx1", y)):
            (raw / f"{part}-{name}-ubyte").write_bytes(idx(array))
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    splits = load_data(DataConfig(name="fashion-mnist", path=str(tmp_path)))
    assert torch.equal(splits.test.x[:, 0], torch.from_numpy(x))
    assert splits.test.y.tolist() == y.tolist()
    assert (splits.spec.channels, splits.spec.image_size) == (1, 28)
    assert splits.spec.mean == (0.2861,)
    assert splits.spec.class_names[0] == "T-shirt/top"


def test_cifar10_is_read_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    x, y = pixels(5, 20, 3, 32, 32), (np.arange(20) % 10).tolist()
    contents = {
        "data_batch_1": {"data": x.reshape(20, -1), "labels": y},
        "test_batch": {"data": x[::-1].reshape(20, -1), "labels": y[::-1]},
        "batches.meta": {"label_names": [f"class {label}" for label in range(10)]},
    }
    md5 = {}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(tv.CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(tv.CIFAR10, "meta", meta)
    splits = load_data(DataConfig(name="cifar10", path=str(tmp_path)))
    assert torch.equal(splits.test.x, torch.from_numpy(x[::-1].copy()))
    assert splits.test.y.tolist() == y[::-1]
    assert splits.spec.class_names == tuple(f"class {label}" for label in range(10))


@pytest.mark.parametrize("inside", [True, False])
def test_imagenette_may_be_named_by_its_root_or_its_folder(inside: bool, tmp_path: Path) -> None:
    folder = tmp_path / "imagenette2"
    write_tree(folder, classes=("n01440764", "n02102040"), suffix="JPEG")
    path = folder if inside else tmp_path
    splits = load_data(tree_config(path, name="imagenette", image_size=8))
    assert splits.spec.class_names == ("n01440764", "n02102040")
    assert splits.spec.image_size == 8
    assert splits.spec.mean == (0.485, 0.456, 0.406)


def test_imagenet_without_its_archives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^data\.path: cannot get imagenet in {tmp_path} \("):
        load_data(DataConfig(name="imagenet", path=str(tmp_path)))


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("no\ndisk")])
def test_a_failed_download_is_told_in_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(root: Path) -> Path:
        raise error

    info = dataclasses.replace(DATASETS["cifar10"], fetch=fetch)
    monkeypatch.setitem(DATASETS, "cifar10", info)
    with pytest.raises(DataError, match=r"^data\.path: cannot get cifar10 in .* \(no\)$"):
        load_data(DataConfig(name="cifar10", path=str(tmp_path)))
