"""Images that come as files in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written import CLASSES, all_of, as_set, pixels, tree_config, write_image, write_tree

from guard.data.datasets import load_data
from guard.data.images import FileImages, TensorImages
from guard.errors import DataError


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
        (spoil_train, r"^data\.path: must be an \.npz file or a folder with train/ .*, got /"),
        (spoil_val, r"^data\.path: /.* needs val/ or test/ with a folder a class"),
        (spoil_all_images, r"^/.*/train: holds no images"),
        (spoil_val_images, r"^/.*/val: holds no images"),
        (spoil_one_class, r"^/.*/train: label 1 \(dog\) has no images"),
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


@pytest.mark.parametrize("inside", [True, False])
def test_imagenette_may_be_named_by_its_root_or_its_folder(inside: bool, tmp_path: Path) -> None:
    folder = tmp_path / "imagenette2"
    write_tree(folder, classes=("n01440764", "n02102040"), suffix="JPEG")
    path = folder if inside else tmp_path
    splits = load_data(tree_config(path, name="imagenette", image_size=8))
    assert splits.spec.class_names == ("n01440764", "n02102040")
    assert splits.spec.image_size == 8
    assert splits.spec.mean == (0.485, 0.456, 0.406)
