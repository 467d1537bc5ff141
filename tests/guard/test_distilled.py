from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.datasets import ImageFolder

from guard.data.spec import ImageSpec
from guard.distilled import (
    DistilledSet,
    class_folder,
)
from guard.errors import DataError
from guard.pictures import to_picture
from helpers import draws

NAMES = ("cat", "../../etc", "a b/c", "..")


def distilled(channels: int = 3, ipc: int = 3, soft: bool = True, size: int = 6) -> DistilledSet:
    classes = len(NAMES)
    stats = (0.5,) * channels
    spec = ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=classes,
        mean=stats,
        std=stats,
        class_names=NAMES,
    )
    images = torch.rand(ipc * classes, channels, size, size, generator=draws())
    probabilities = torch.rand(ipc * classes, classes, generator=draws(1)).softmax(dim=1)
    labels = torch.arange(classes).repeat(ipc)
    return DistilledSet(
        images=images,
        labels=labels,
        soft_labels=probabilities if soft else None,
        spec=spec,
        card={"format": 1},
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("soft", [True, False])
def test_a_set_survives_the_disk(channels: int, soft: bool, tmp_path: Path) -> None:
    made = distilled(channels, soft=soft)
    made.save(tmp_path)
    loaded = DistilledSet.load(str(tmp_path))
    assert torch.equal(loaded.images, made.images) and loaded.images.dtype == torch.float32
    assert torch.equal(loaded.labels, made.labels) and loaded.labels.dtype == torch.int64
    if made.soft_labels is None:
        assert loaded.soft_labels is None
    else:
        assert loaded.soft_labels is not None
        assert torch.equal(loaded.soft_labels, made.soft_labels)
    assert loaded.spec == made.spec
    assert loaded.card["format"] == 1
    assert loaded.ipc == made.ipc == 3


def test_a_view_of_a_larger_tensor_is_saved_too(tmp_path: Path) -> None:
    made = distilled()
    strided = dataclasses.replace(made, images=made.images.transpose(2, 3))
    strided.save(tmp_path)
    assert torch.equal(DistilledSet.load(tmp_path).images, made.images.transpose(2, 3))


def spoilt(folder: Path, **changes: Any) -> Path:
    """A saved set with other tensors; None takes one away. The file of the tensors."""
    distilled().save(folder)
    tensors = {**load_file(folder / "images.safetensors"), **changes}
    save_file(
        {name: value for name, value in tensors.items() if value is not None},
        folder / "images.safetensors",
    )
    return folder / "images.safetensors"


GOOD = torch.rand(12, 3, 6, 6, generator=draws())
LABELS = torch.arange(4).repeat(3)


def first(count: int) -> dict[str, Any]:
    return {
        "images": GOOD[:count].clone(),
        "labels": LABELS[:count].clone(),
        "soft_labels": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "has no images; needs images and labels"),
        ({"labels": None}, "has no labels; needs images and labels"),
        ({"images": GOOD.double()}, "images must be torch.float32, got torch.float64"),
        ({"labels": LABELS.float()}, "labels must be torch.int64, got torch.float32"),
        ({"images": GOOD[:, :1].clone()}, r"images must be \(12, 3, 6, 6\), got \(12, 1, 6, 6\)"),
        ({"images": GOOD[0, 0, 0, 0].clone()}, r"images must be \(0, 3, 6, 6\), got \(\)"),
        ({"images": GOOD[:11].clone()}, r"labels must be \(11,\), got \(12,\)"),
        (
            {"images": GOOD[:11].clone(), "labels": LABELS[:11].clone(), "soft_labels": None},
            "4 cla",
        ),
        (
            {"images": GOOD[:0].clone(), "labels": LABELS[:0].clone(), "soft_labels": None},
            "4 class",
        ),
        ({"labels": LABELS + 1}, r"labels must be 0\.\.3 over and over, got 1 to 4"),
        ({"labels": LABELS - 5}, r"labels must be 0\.\.3 over and over, got -5 to -2"),
        ({"labels": LABELS.flip(0)}, r"labels must be 0\.\.3 over and over"),
        (
            {"images": torch.where(GOOD > 0.99, torch.nan, GOOD)},
            r"pixels must be in 0\.\.1, got nan",
        ),
        ({"images": GOOD * torch.inf}, r"pixels must be in 0\.\.1, got"),
        ({"images": GOOD * 255}, r"pixels must be in 0\.\.1, got .* to 25"),
        ({"images": GOOD - 0.5}, r"pixels must be in 0\.\.1, got -0"),
        ({"soft_labels": torch.zeros(12, 5)}, r"soft_labels must be \(12, 4\), got \(12, 5\)"),
        ({"soft_labels": torch.full((12, 4), torch.nan)}, "soft_labels must be finite"),
    ],
)
def test_tensors_that_are_no_set_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    place = spoilt(tmp_path, **changes)
    with pytest.raises(DataError, match=f"^{place}: .*{message}") as caught:
        DistilledSet.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_pixels_may_be_rounded_over_the_edge(tmp_path: Path) -> None:
    spoilt(tmp_path, images=GOOD.clamp(max=0.9) / 0.9 * (1 + 1e-6))
    assert DistilledSet.load(tmp_path).images.max() > 1


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff" * 100])
def test_a_damaged_file_of_tensors_is_named(content: bytes, tmp_path: Path) -> None:
    place = spoilt(tmp_path)
    place.write_bytes(content)
    with pytest.raises(DataError, match=f"^{place}: damaged"):
        DistilledSet.load(tmp_path)
    place.unlink()
    with pytest.raises(DataError, match=f"^{place}: cannot be read"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize(
    "card",
    ["", "[]", "{}", "\xff", '{"spec": 3}', '{"spec": {"mean": [1]}}', '{"spec": {"colour": 1}}'],
)
def test_a_card_that_is_none_is_named(card: str, tmp_path: Path) -> None:
    spoilt(tmp_path)
    place = tmp_path / "card.json"
    place.write_text(card, encoding="latin-1")
    with pytest.raises(DataError, match=f"^{place}: is no card of a distilled set"):
        DistilledSet.load(tmp_path)
    place.unlink()
    with pytest.raises(DataError, match=f"^{place}: cannot be read"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"class_names": ["a"]}, {"mean": [0.5]}, {"num_classes": 5}, {"std": []}]
)
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    spoilt(tmp_path)
    place = tmp_path / "card.json"
    card = json.loads(place.read_text())
    place.write_text(json.dumps({**card, "spec": {**card["spec"], **change}}))
    with pytest.raises(DataError, match=f"^{place}: its spec must name every class"):
        DistilledSet.load(tmp_path)


def test_pairs_of_images_and_labels() -> None:
    made = distilled()
    hard, soft = made.dataset(), made.dataset(soft=True)
    assert len(hard) == len(soft) == 12
    for number in (0, 5, 11):
        assert torch.equal(hard[number][0], made.images[number])
        assert int(hard[number][1]) == number % 4
        assert torch.equal(soft[number][0], made.images[number])
        assert made.soft_labels is not None
        assert torch.equal(soft[number][1], made.soft_labels[number])


def test_a_set_without_soft_labels_says_so() -> None:
    made = distilled(soft=False)
    assert len(made.dataset()) == 12
    with pytest.raises(ValueError, match="no soft labels"):
        made.dataset(soft=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_export_is_an_image_folder(channels: int, tmp_path: Path) -> None:
    made, root = distilled(channels), tmp_path / "out"
    made.export(root)
    read = ImageFolder(str(root))
    assert len(read) == 12 and len(read.classes) == 4
    assert torch.bincount(torch.tensor(read.targets)).tolist() == [3] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in root.iterdir() if path.is_file()] == ["card.json"]
    made.save(tmp_path)
    assert (root / "card.json").read_bytes() == (tmp_path / "card.json").read_bytes()
    for number, (file, label) in enumerate(read.samples):
        which, index = divmod(number, 3)
        assert label == which
        image = made.images[index * 4 + which]
        with Image.open(file) as picture:
            pixels = torch.from_numpy(np.array(picture)).view(6, 6, channels).permute(2, 0, 1)
        assert (pixels.float() / 255 - image).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("label", range(4))
def test_a_class_folder_cannot_leave_its_parent(label: int, tmp_path: Path) -> None:
    name = class_folder(distilled().spec, label)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert name.startswith(f"{label:04d}_")


def test_class_folders_are_distinct_and_sort_by_label() -> None:
    names = ("z", "a/b", "a.b", "-") * 3
    spec = ImageSpec(
        channels=1, image_size=4, num_classes=12, mean=(0.5,), std=(0.5,), class_names=names
    )
    folders = [class_folder(spec, label) for label in range(12)]
    assert folders == sorted(set(folders))
    assert folders[0] == "0000_z"


def test_a_picture_is_rounded_to_the_nearest_level() -> None:
    image = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.2, -0.3]).view(1, 2, 3)
    assert np.array(to_picture(image)).flatten().tolist() == [0, 0, 1, 255, 255, 0]
    assert to_picture(image).mode == "L"
    assert to_picture(image.expand(3, 2, 3)).mode == "RGB"


@pytest.mark.parametrize(
    ("size", "ipc", "cell", "columns"), [(6, 3, 48, 3), (6, 12, 48, 10), (60, 1, 60, 1)]
)
def test_a_contact_sheet_has_a_row_a_class(size: int, ipc: int, cell: int, columns: int) -> None:
    made = distilled(ipc=ipc, size=size)
    sheet = made.contact_sheet()
    assert sheet.size == (90 + columns * (cell + 2), 4 * (cell + 2))
    left, top = 90 + (columns - 1) * (cell + 2), 2 * (cell + 2)
    shown = sheet.crop((left, top, left + cell, top + cell))
    expected = to_picture(made.images[(columns - 1) * 4 + 2])
    assert np.array_equal(shown, expected.resize((cell, cell), Image.Resampling.NEAREST))


def test_a_contact_sheet_stops_at_its_limits() -> None:
    assert distilled().contact_sheet(max_columns=2, max_rows=1).size == (190, 50)


def test_hard_labels_as_distributions() -> None:
    made = distilled()
    assert torch.equal(made.one_hot(), torch.eye(4).repeat(3, 1))
    assert made.one_hot().dtype == torch.float32


def test_a_partitioned_set_is_trained_on_part_by_part(tmp_path: Path) -> None:
    made = dataclasses.replace(distilled(), card={"format": 2, "ipc": 3, "partition": 2})
    made.save(tmp_path)
    loaded = DistilledSet.load(tmp_path)
    own = loaded.expanded()
    assert (loaded.ipc, loaded.partition, own.ipc, own.partition) == (3, 2, 12, 1)
    assert own.images.shape == (48, 3, 6, 6)
    assert own.labels.tolist() == [0, 1, 2, 3] * 12
    assert own.soft_labels is not None and made.soft_labels is not None
    for number, (image, soft) in enumerate(zip(own.images, own.soft_labels, strict=True)):
        part, label = divmod(number, 4)
        whole, place = 4 * (part // 4) + label, part % 4
        top, left = 3 * (place // 2), 3 * (place % 2)
        quadrant = made.images[whole, :, top : top + 3, left : left + 3]
        assert torch.equal(image[:, ::5, ::5], quadrant[:, ::2, ::2])
        assert torch.equal(soft, made.soft_labels[whole])
    assert torch.equal(loaded.dataset().tensors[0], own.images)
    assert torch.equal(loaded.dataset(soft=True).tensors[1], own.soft_labels)


def test_a_set_without_parts_is_trained_on_as_it_is() -> None:
    made = distilled()
    assert made.partition == 1 and made.expanded() is made


@pytest.mark.parametrize("partition", [0, 4, "2", None, 1.5])
def test_a_partition_that_cannot_be_is_named_in_one_line(partition: Any, tmp_path: Path) -> None:
    card = {"format": 2, "partition": partition}
    dataclasses.replace(distilled(), card=card).save(tmp_path)
    with pytest.raises(DataError, match=r"card.json: partition must divide 6 px, got") as caught:
        DistilledSet.load(tmp_path)
    assert "\n" not in str(caught.value)
