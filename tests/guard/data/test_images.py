"""Images in memory and in files: batches, crops, subsets, splits, and shares of processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from written import noise

from guard.data.decode import open_image
from guard.data.images import FileImages, TensorImages, epoch_order, split_off
from guard.errors import DataError
from guard.group import Group
from helpers import CPU, draws
from together import in_threads


@pytest.fixture
def both(tmp_path: Path) -> tuple[TensorImages, FileImages]:
    """The same seven images in memory and as PNG files."""
    x, y = noise(7), torch.tensor([0, 1, 0, 1, 2, 2, 0])
    files = []
    for number, image in enumerate(x):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        files.append(str(path))
    return TensorImages(x, y), FileImages(
        files=tuple(files), y=y, channels=3, image_size=6, num_workers=0
    )


def test_batches_are_floats_in_unit_range_with_their_labels(
    both: tuple[TensorImages, FileImages],
) -> None:
    memory = both[0]
    for images in both:
        batches = list(images.batches(3, CPU))
        assert [len(x) for x, _ in batches] == [3, 3, 1]
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert torch.equal(x, memory.x.float() / 255)
        assert torch.equal(y, memory.y)


@pytest.mark.parametrize("number", [0, 1])
def test_a_set_without_images_has_no_batch_or_an_empty_one(
    number: int, both: tuple[TensorImages, FileImages]
) -> None:
    none = both[number].subset(torch.arange(0))
    assert sum(len(x) for x, _ in none.batches(3, CPU)) == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streaming_shuffles_as_memory_does(
    both: tuple[TensorImages, FileImages], num_workers: int
) -> None:
    memory, files = both
    files = FileImages(
        files=files.files, y=files.y, channels=3, image_size=6, num_workers=num_workers
    )
    generators = draws(1), draws(1)
    for _ in range(2):
        epochs = [
            list(images.batches(4, CPU, shuffle))
            for images, shuffle in zip((memory, files), generators, strict=True)
        ]
        for (x, y), (file_x, file_y) in zip(*epochs, strict=True):
            assert torch.equal(x, file_x) and torch.equal(y, file_y)


def test_a_shuffle_is_a_new_permutation_each_epoch(
    both: tuple[TensorImages, FileImages],
) -> None:
    generator = draws(1)
    orders = [epoch_order(7, generator).tolist() for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(7))
    assert epoch_order(3, None).tolist() == [0, 1, 2]
    for images in both:
        x, y = next(images.batches(7, CPU, draws(1)))
        assert torch.equal(y, both[0].y[orders[0]])
        assert torch.equal(x, both[0].x[orders[0]].float() / 255)


def test_a_subset_keeps_images_with_their_labels(both: tuple[TensorImages, FileImages]) -> None:
    indices = torch.tensor([5, 0, 4])
    for images in both:
        part = images.subset(indices)
        assert len(part) == 3
        x, y = next(part.batches(9, CPU))
        assert torch.equal(x, both[0].x[indices].float() / 255)
        assert y.tolist() == [2, 0, 2]


@pytest.mark.parametrize("kind", [0, 1], ids=["memory", "files"])
def test_crops_are_drawn_from_the_shuffle(kind: int, both: tuple[TensorImages, FileImages]) -> None:
    images = both[kind]
    epochs = [next(images.batches(7, CPU, draws(seed), 0.3)) for seed in (1, 1, 2)]
    plain = next(images.batches(7, CPU, draws(1)))
    assert torch.equal(epochs[0][0], epochs[1][0])
    assert torch.equal(epochs[0][1], plain[1])
    assert not torch.equal(epochs[0][0], plain[0])
    assert not torch.equal(epochs[0][0], epochs[2][0])
    assert epochs[0][0].shape == plain[0].shape
    assert 0 <= epochs[0][0].min() and epochs[0][0].max() <= 1


def test_no_crops_without_a_shuffle(both: tuple[TensorImages, FileImages]) -> None:
    for images in both:
        x, _ = next(images.batches(7, CPU, None, 0.3))
        assert torch.equal(x, both[0].x.float() / 255)


def test_streamed_crops_do_not_depend_on_the_batch_size(
    both: tuple[TensorImages, FileImages],
) -> None:
    parts = [torch.cat([x for x, _ in both[1].batches(b, CPU, draws(1), 0.3)]) for b in (2, 7)]
    assert torch.equal(*parts)


def test_each_streamed_image_has_its_own_crop(both: tuple[TensorImages, FileImages]) -> None:
    repeated = both[1].subset(torch.zeros(5, dtype=torch.long))
    x, _ = next(repeated.batches(5, CPU, draws(1), 0.3))
    assert len({image.numpy().tobytes() for image in x}) == 5


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_a_split_is_stratified_and_disjoint(fraction: float) -> None:
    y = torch.tensor([0] * 40 + [1] * 10 + [2] * 2)[torch.randperm(52, generator=draws())]
    rest, part = split_off(y, fraction, 0, "x")
    assert sorted([*rest.tolist(), *part.tolist()]) == list(range(52))
    assert rest.tolist() == sorted(rest.tolist()) and part.tolist() == sorted(part.tolist())
    counts = torch.bincount(y[part], minlength=3).tolist()
    assert counts == [max(round(40 * fraction), 1), max(round(10 * fraction), 1), 1]
    assert torch.bincount(y[rest], minlength=3).min() >= 1


def test_a_split_is_drawn_by_its_seed_and_its_label() -> None:
    y = torch.arange(60) % 3
    parts = [
        tuple(split_off(y, 0.3, seed, label)[1].tolist())
        for seed, label in ((0, "x"), (0, "x"), (1, "x"), (0, "y"))
    ]
    assert parts[0] == parts[1]
    assert len(set(parts)) == 3


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="class 4 has one training image"):
        split_off(torch.tensor([0, 0, 4, 5, 5]), 0.5, 0, "x")


def test_a_set_is_brought_near_once() -> None:
    """Stood in for by a device that knows shapes alone."""
    there = torch.device("meta")
    images = TensorImages(torch.zeros(7, 3, 4, 4, dtype=torch.uint8), torch.arange(7))
    near = images.near(there)
    assert near.x.device == there and near.y is images.y
    assert near.near(there).x is near.x
    some = near.subset(torch.tensor([3, 1]))
    assert some.x.device == there and some.y.tolist() == [3, 1]
    batches = list(near.batches(4, there, draws()))
    assert [tuple(x.shape) for x, _ in batches] == [(4, 3, 4, 4), (3, 3, 4, 4)]
    assert all(x.device == y.device == there for x, y in batches)
    files = FileImages(files=("a.png",), y=torch.zeros(1), channels=3, image_size=4)
    assert files.near(there) is files


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("crop_scale", [None, 0.3])
def test_processes_decode_their_shares_and_get_the_whole_batch(
    both: tuple[TensorImages, FileImages], crop_scale: float | None, size: int
) -> None:
    """The last batch has fewer images than there are processes, or as many."""
    decoded: list[str] = []
    names = {path: number for number, path in enumerate(both[1].files)}

    def opened(path: Path, channels: int) -> Image.Image:
        decoded.append(str(path))
        return open_image(path, channels)

    def epoch(images: FileImages) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(images.batches(4, CPU, draws(1), crop_scale))

    wanted = epoch(both[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guard.data.images.open_image", opened)
        found = in_threads(lambda group: epoch(both[1].shared_by(group)), size)
    for batches in found:
        for (x, y), (expected, labels) in zip(batches, wanted, strict=True):
            assert torch.equal(x, expected) and torch.equal(y, labels)
    assert set(decoded) == set(names)
    assert len(decoded) == (7 if size == 2 else 4 + 3 * size)


def test_what_lies_in_memory_is_shared_as_its_pictures_are(
    both: tuple[TensorImages, FileImages],
) -> None:
    group = Group(rank=1, size=2)
    assert both[0].shared_by(group).originals is None
    shared = TensorImages(both[0].x, both[0].y, both[1]).shared_by(group)
    assert shared.originals == replace(both[1], group=group)
