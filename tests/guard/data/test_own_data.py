"""Other people's data under any name: used or refused, in its own channels, looked at, in little
memory."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from written import CLASSES, npz, pixels, tree_config, write_image, write_tree

from guard.config import DataConfig
from guard.config.data import DATASETS
from guard.data.datasets import load_data, resolve
from guard.data.images import FileImages, TensorImages
from guard.errors import ConfigError, DataError
from helpers import run_python

NAMES = list(DATASETS)


@pytest.mark.parametrize("name", NAMES)
def test_own_data_are_read_under_any_name(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "tree")
    tree = load_data(tree_config(tmp_path / "tree", name=name, image_size=6))
    assert tree.spec.class_names == CLASSES and tree.spec.channels == 3
    file = load_data(dataclasses.replace(npz(tmp_path), name=name))
    assert file.spec.class_names == ("0", "1", "2") and file.spec.channels == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_is_no_data_is_refused_under_any_name(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    write_image(tmp_path / "photos" / "cats" / "1.png", 1)
    for path in (tmp_path / "x.npy", tmp_path / "photos", Path("/etc/hostname")):
        with pytest.raises(DataError, match=rf"^data\.path: .*{path}.*") as caught:
            load_data(DataConfig(name=name, path=str(path)))
        assert "train/" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["~no-such-user/x", "a\0b", "a" * 5000, "/etc/hostname/x"])
def test_a_path_that_cannot_be_is_refused(path: str) -> None:
    with pytest.raises(DataError, match=r"^data\.path: .* cannot be read \(.+\)$"):
        load_data(DataConfig(path=path))


def test_images_beside_torchvision_own_folder_do_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guard.data import sources

    asked: list[tuple[str, Path]] = []
    monkeypatch.setattr(sources, "_arrays", lambda name, root: asked.append((name, root)) or root)
    monkeypatch.setattr("guard.data.datasets._tree", lambda root, config, info: pytest.skip())
    write_image(tmp_path / "holiday.png", 1)
    with pytest.raises(DataError, match="holds images, but no train/"):
        load_data(DataConfig(name="cifar10", path=str(tmp_path)))
    assert asked == []
    (tmp_path / "cifar-10-batches-py").mkdir()
    sources.fetch(DATASETS["cifar10"].source, tmp_path)
    (tmp_path / "holiday.png").unlink()
    sources.fetch(DATASETS["fashion-mnist"].source, tmp_path)
    assert asked == [("CIFAR10", tmp_path), ("FashionMNIST", tmp_path)]


def test_a_user_without_a_home_is_asked_for_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    assert len(load_data(DataConfig(split_seed=11)).test) == 359
    with pytest.raises(DataError, match=r"^data\.path: needed, since there is no home"):
        load_data(DataConfig(name="cifar10"))


def grey_tree(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                levels = pixels(100 * (split == "val") + 10 * label + number, 6, 6)
                path = root / split / name / f"{number}.png"
                Image.fromarray(levels.astype(np.uint16) * 257).save(path)


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
@pytest.mark.parametrize(
    ("name", "channels"), [("digits", 1), ("fashion-mnist", 1), ("folder", 3), ("cifar10", 3)]
)
def test_a_grey_tree_is_grey_where_the_data_set_is(
    name: str, channels: int, max_tensor_gib: float, tmp_path: Path
) -> None:
    grey_tree(tmp_path)
    config = tree_config(tmp_path, name=name, max_tensor_gib=max_tensor_gib)
    splits = load_data(config)
    assert splits.spec.channels == len(splits.spec.mean) == len(splits.spec.std) == channels
    kind = TensorImages if max_tensor_gib else FileImages
    assert type(splits.test) is kind
    x, _ = next(splits.test.batches(9, torch.device("cpu")))
    expected = torch.from_numpy(pixels(100, 6, 6)).float() / 255
    assert torch.equal(x[0], expected.expand(channels, 6, 6))


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_one_coloured_file_gives_a_tree_its_colours(
    name: str, max_tensor_gib: float, tmp_path: Path
) -> None:
    grey_tree(tmp_path)
    image = write_image(tmp_path / "val" / "cat" / "0.png", 5)
    splits = load_data(tree_config(tmp_path, name=name, max_tensor_gib=max_tensor_gib))
    assert splits.spec.channels == len(splits.spec.mean) == 3
    x, _ = next(splits.test.batches(9, torch.device("cpu")))
    assert torch.equal(x[0], torch.from_numpy(image).permute(2, 0, 1).float() / 255)


def blank(colours: int) -> np.ndarray:
    """Images of one colour each."""
    flat = (np.arange(12) % colours * 90).astype(np.uint8)
    return np.broadcast_to(flat[:, None, None, None], (12, 6, 6, 3)).copy()


@pytest.mark.parametrize("colours", [1, 3])
def test_a_set_of_images_of_one_colour_is_refused(colours: int, tmp_path: Path) -> None:
    good = {"x_train": pixels(1, 12, 6, 6, 3), "x_test": pixels(1, 6, 6, 6, 3)}
    for name, images in (("x_train", blank(colours)), ("x_test", blank(colours)[:6])):
        (tmp_path / name).mkdir()
        config = npz(tmp_path / name, **{**good, name: images})
        message = f"^{config.path}: {name}: all of {len(images)} images have one colour all over"
        with pytest.raises(DataError, match=message):
            resolve(config)


@pytest.mark.parametrize("max_tensor_gib", [1.2, 0])
def test_a_tree_of_images_of_one_colour_is_refused_by_its_first(
    max_tensor_gib: float, tmp_path: Path
) -> None:
    write_tree(tmp_path)
    for path in (tmp_path / "train").rglob("*.png"):
        Image.new("RGB", (6, 6), "white").save(path)
    message = rf"^{tmp_path}/train: all of 8 .*; the first is {tmp_path}/train/cat/0\.png$"
    with pytest.raises(DataError, match=message):
        resolve(tree_config(tmp_path, max_tensor_gib=max_tensor_gib))


def test_an_image_of_one_colour_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path)
    for number in (1, 3):
        Image.new("RGB", (6, 6), "navy").save(tmp_path / "train" / "dog" / f"{number}.png")
    assert load_data(tree_config(tmp_path)).notes == (
        f"{tmp_path}/train: 2 of 8 images have one colour all over; "
        f"the first is {tmp_path}/train/dog/1.png",
    )
    x = pixels(0, 12, 6, 6)
    x[7] = 9
    config = npz(tmp_path, x_train=x)
    assert resolve(config).sha256
    assert load_data(config).notes == (
        f"{config.path}: x_train: 1 of 12 images have one colour all over; the first is number 7",
    )


def test_a_set_that_is_all_but_black_is_asked_about(tmp_path: Path) -> None:
    config = npz(tmp_path, x_train=pixels(0, 12, 6, 6) // 200, x_test=pixels(1, 6, 6, 6) // 200)
    assert load_data(config).notes[0] == (
        f"{config.path}: x_train: no pixel of 12 images is above 1 of 255; "
        "were 0..1 meant as 0..255?"
    )


def test_sides_beyond_reason_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_size: must be at least 0 and at most 4096"):
        DataConfig(image_size=5000)
    write_tree(tmp_path)
    Image.new("L", (4097, 4097)).save(tmp_path / "train" / "cat" / "0.png")
    place = tmp_path / "train" / "cat" / "0.png"
    with pytest.raises(DataError, match=rf"^{place}: has 4097 px, at most 4096 .*image_size=N"):
        load_data(tree_config(tmp_path))
    with pytest.raises(DataError, match=r"^data\.center_crop: 0\.001 of 8 px makes images of more"):
        load_data(tree_config(tmp_path, image_size=8, center_crop=0.001))


MEMORY = """
from pathlib import Path
from guard.config import DataConfig
from guard.data.datasets import load_data

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

load_data(DataConfig(path={small!r}))
before = peak()
load_data(DataConfig(path={large!r}))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["arrays", "tree"])
def test_own_data_take_two_and_a_half_times_their_size_at_most(kind: str, tmp_path: Path) -> None:
    places = {name: tmp_path / (name if kind == "tree" else f"{name}.npz") for name in SIDES}
    for name, side in SIDES.items():
        x = {"train": pixels(1, 40, side, side, 3), "test": pixels(2, 8, side, side, 3)}
        size = sum(part.nbytes for part in x.values())
        if kind == "arrays":
            y = {f"y_{part}": np.arange(len(images)) % 2 for part, images in x.items()}
            np.savez(places[name], **{f"x_{part}": images for part, images in x.items()}, **y)
        for part in x if kind == "tree" else ():
            for number, image in enumerate(x[part]):
                folder = places[name] / part / CLASSES[number % 2]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{number}.bmp")
    code = MEMORY.format(small=str(places["small"]), large=str(places["large"]))
    done = run_python(code, OMP_NUM_THREADS="1")
    assert size < int(done.stdout) < 2.5 * size, done.stdout + done.stderr


SIDES = {"small": 8, "large": 640}


def test_what_is_read_is_held_once_whatever_its_content_is_called(tmp_path: Path) -> None:
    config = npz(tmp_path)
    assert load_data(config) is load_data(resolve(config))
