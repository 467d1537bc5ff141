"""What of a folder is an image of which class, and what is said of the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written import CLASSES, all_of, pixels, tree_config, write_image, write_tree

from guard.data.datasets import load_data, resolve
from guard.errors import DataError


def test_hidden_names_and_what_systems_leave_behind_are_passed_over(tmp_path: Path) -> None:
    write_tree(tmp_path)
    image = tmp_path / "train" / "cat" / "0.png"
    for folder in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        for place in (tmp_path / "train" / "cat", tmp_path / "train"):
            (place / folder).mkdir()
            shutil.copy(image, place / folder / "copy.png")
    (image.parent / "._0.png").write_bytes(b"\0\5\x16\7")
    (image.parent / "Thumbs.db").write_bytes(b"")
    (tmp_path / "val" / ".DS_Store").write_bytes(b"")
    splits = load_data(tree_config(tmp_path))
    assert len(splits.train) + len(splits.validation) == 8
    assert splits.spec.class_names == CLASSES
    assert splits.notes == (f"left out of {tmp_path}: 9 hidden",)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    root, away = tmp_path / "tree", tmp_path / "away"
    write_tree(root)
    for number in range(3):
        write_image(away / "deep" / f"{number}.png", 50 + number)
    (root / "train" / "cat" / "more").symlink_to(away)
    (root / "train" / "emu").symlink_to(away)
    write_image(root / "val" / "emu" / "0.png", 60)
    splits = load_data(tree_config(root))
    counts = torch.bincount(torch.cat([splits.train.y, splits.validation.y]))
    assert counts.tolist() == [7, 4, 3]


def test_links_make_no_loop_and_no_second_copy(tmp_path: Path) -> None:
    write_tree(tmp_path)
    cats = tmp_path / "train" / "cat"
    for name, target in (("self", cats), ("up", cats.parent), ("root", tmp_path)):
        (cats / name).symlink_to(target)
    (cats / "a").mkdir()
    write_image(cats / "a" / "0.png", 70)
    (cats / "b").symlink_to(cats / "a")
    splits = load_data(tree_config(tmp_path))
    counts = torch.bincount(torch.cat([splits.train.y, splits.validation.y]))
    assert counts.tolist() == [5, 4]


def test_what_is_left_out_is_counted_by_its_suffix(tmp_path: Path) -> None:
    write_tree(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.npy", "README"):
        (tmp_path / "train" / "cat" / name).write_text("x")
    write_image(tmp_path / "train" / "stray.png", 1)
    (tmp_path / "val" / "dog" / "gone").symlink_to(tmp_path / "nowhere")
    assert load_data(tree_config(tmp_path)).notes == (
        f"left out of {tmp_path}: 2 .heic, 1 outside the class folders, 1 without a suffix, "
        "1 .npy, 1 behind broken links",
    )


def test_a_tree_of_files_that_are_not_read_says_which_they_are(tmp_path: Path) -> None:
    for name in CLASSES:
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "x.heic").write_text("x")
    with pytest.raises(DataError, match=rf"^{tmp_path}/train: holds no images; .*: 4 \.heic$"):
        load_data(tree_config(tmp_path))


@pytest.mark.parametrize("suffix", ["gif", "jfif", "pgm", "PNG", "webp"])
def test_images_of_many_formats_are_found(suffix: str, tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels(10 * label + number, 6, 6))
                image.save(tmp_path / split / name / f"{number}.{suffix}")
    splits = load_data(tree_config(tmp_path))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 2, 4)
    assert splits.notes == ()


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
def test_val_beside_test_is_the_validation_set(max_tensor_gib: float, tmp_path: Path) -> None:
    write_tree(tmp_path, "test")
    plain = resolve(tree_config(tmp_path, max_tensor_gib=max_tensor_gib))
    written = [
        write_image(tmp_path / "val" / name / f"{number}.png", 200 + 10 * label + number)
        for label, name in enumerate(CLASSES)
        for number in range(3)
    ]
    config = resolve(tree_config(tmp_path, max_tensor_gib=max_tensor_gib, split_seed=1))
    splits = load_data(config)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8, 6, 4]
    x, y = all_of(splits.validation)
    expected = torch.from_numpy(np.stack(written)).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(x, expected) and y.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.notes == (
        f"{tmp_path}/val is the validation set; data.validation_fraction is not used",
    )
    assert config.sha256 != plain.sha256
    write_image(tmp_path / "val" / "cat" / "0.png", 99, 7)
    changed = tree_config(tmp_path, max_tensor_gib=max_tensor_gib, split_seed=2)
    assert resolve(changed).sha256 != config.sha256


def test_a_test_folder_without_classes_is_said_to_be_unused(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_image(tmp_path / "test" / "1.png", 3)
    splits = load_data(tree_config(tmp_path))
    assert len(splits.test) == 4
    assert splits.notes == (f"{tmp_path}/test has no folder a class and is not used",)


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
def test_names_that_are_not_utf_8(max_tensor_gib: float, tmp_path: Path) -> None:
    write_tree(tmp_path, classes=("ant", "z-\udce9", "zoo"))
    image = tmp_path / "train" / "ant" / "0.png"
    os.rename(image, os.fsencode(image.parent) + b"/\xff.png")
    splits = load_data(tree_config(tmp_path, max_tensor_gib=max_tensor_gib))
    assert splits.spec.class_names == ("ant", "z-\\xe9", "zoo")
    x, y = all_of(splits.test)
    assert len(x) == 6 and y.tolist() == [0, 0, 1, 1, 2, 2]
    "".join(splits.spec.class_names).encode()


def test_a_class_without_images_is_named_with_its_place(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(DataError, match=rf"^{tmp_path}/train: label 2 \(emu\) has no images"):
        load_data(tree_config(tmp_path))
    (tmp_path / "train" / "emu").rmdir()
    shutil.rmtree(tmp_path / "val" / "cat")
    with pytest.raises(DataError, match=rf"^{tmp_path}/val: label 0 \(cat\) has no images"):
        load_data(tree_config(tmp_path, split_seed=1))


def test_a_class_of_one_image_is_named_with_its_place(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_image(tmp_path / "train" / "emu" / "0.png", 1)
    write_image(tmp_path / "val" / "emu" / "0.png", 2)
    message = rf"^{tmp_path}/train: label 2 \(emu\) has one training image; a split needs two$"
    with pytest.raises(DataError, match=message):
        load_data(tree_config(tmp_path))
    for name in (*CLASSES, "emu"):
        write_image(tmp_path / "test" / name / "0.png", 3)
    assert len(load_data(tree_config(tmp_path, split_seed=1)).train) == 9


ROWS = "v0.png\tcat\t0\nv1.png\tdog\n\nv2.png\tdog\t1\n"


def write_annotated(root: Path, rows: bytes) -> None:
    write_tree(root)
    shutil.rmtree(root / "val")
    for number in range(3):
        write_image(root / "val" / "images" / f"v{number}.png", number)
    (root / "val" / "val_annotations.txt").write_bytes(rows)


@pytest.mark.parametrize("rows", [ROWS, ROWS.replace("\n", "\r\n"), ROWS.replace("\t", " \t ")])
def test_annotations_may_end_and_be_set_as_they_like(rows: str, tmp_path: Path) -> None:
    write_annotated(tmp_path, rows.encode())
    assert load_data(tree_config(tmp_path)).test.y.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.replace("\t", " "), "line 1 must be a file of images/, a tab and its class, got 'v0"),
        (ROWS + "v0.png\n", "line 5 must be"),
        (ROWS + "../../v0.png\tcat\n", "line 5 must be .* got '../../v0.png"),
        (ROWS + "/etc/passwd\tcat\n", "line 5 must be"),
        (ROWS + "é.png\tcat\n", r"cannot be read \(it is not UTF-8\)"),
    ],
)
def test_odd_annotations_are_refused_by_line(rows: str, message: str, tmp_path: Path) -> None:
    write_annotated(tmp_path, rows.encode("latin-1"))
    place = tmp_path / "val" / "val_annotations.txt"
    with pytest.raises(DataError, match=f"^{place}: {message}"):
        load_data(tree_config(tmp_path))


def test_annotations_of_other_classes_are_counted(tmp_path: Path) -> None:
    write_annotated(tmp_path, (ROWS + "v0.png\temu\n").encode())
    assert load_data(tree_config(tmp_path)).notes == (
        f"left out of {tmp_path}: 1 of classes that train/ has not",
    )
    (tmp_path / "val" / "val_annotations.txt").write_text("v0.png\temu\n")
    with pytest.raises(DataError, match=rf"^{tmp_path}/val: holds no images; left out: 1 of "):
        load_data(tree_config(tmp_path, split_seed=1))


def test_annotations_without_their_images_do_not_count(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text(ROWS)
    assert load_data(tree_config(tmp_path)).test.y.tolist() == [0, 0, 1, 1]
