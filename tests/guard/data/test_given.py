from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guard.data.given import content_of, in_unit_range, read_given
from guard.data.spec import ImageSpec
from guard.errors import DataError
from helpers import draws

SPEC = ImageSpec(
    channels=3,
    image_size=4,
    num_classes=3,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    class_names=("ant", "bee", "cow"),
)
LEVELS = torch.randint(0, 256, (6, 3, 4, 4), generator=draws(), dtype=torch.uint8)
X, Y = LEVELS.float() / 255, torch.tensor([2, 0, 1, 1, 2, 0])
EXPECTED = torch.stack([X[[1, 2, 0]], X[[5, 3, 4]]])
"""The first of each class, then the second."""
MEAN, STD = torch.tensor(SPEC.mean)[:, None, None], torch.tensor(SPEC.std)[:, None, None]


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path / "set.pt")
    return path / "set.pt"


@pytest.mark.parametrize(
    "value",
    [
        (X, Y),
        [X.double(), Y.int()],
        {"images": X, "labels": Y},
        {"data": [[X * 0, Y], [X, Y]], "accs_all_exps": {}},
        (X, Y.float()[:, None]),
        (X.permute(0, 2, 3, 1), Y),
        (LEVELS, Y),
        (X.requires_grad_(False) * 255, Y),
        (2 * X - 1, Y),
        ((X - MEAN) / STD, Y),
    ],
)
def test_files_of_tensors_in_many_forms_are_one_set(value: Any, tmp_path: Path) -> None:
    found = read_given(saved(tmp_path, value), SPEC)
    assert found.images.shape == (2, 3, 3, 4, 4) and found.soft_labels is None
    torch.testing.assert_close(found.images, EXPECTED, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (X, ""),
        (LEVELS, ""),
        (255 * X, "floats from .* are taken as 0..255"),
        (2 * X - 1, "are taken as -1..1"),
        ((X - MEAN) / STD, "are taken as normalised by the data set's mean and deviation$"),
        ((1.2 * X - MEAN) / STD, r"deviation; \d+\.\d % of them are outside 0..1 and cut off"),
    ],
)
def test_what_pixels_are_taken_for_is_said(images: torch.Tensor, note: str, tmp_path: Path) -> None:
    import re

    notes = " ".join(in_unit_range(tmp_path, images, SPEC)[1])
    assert re.search(note, notes) if note else not notes


@pytest.mark.parametrize(
    ("images", "rule"),
    [
        (X * 3, "are neither of 0..1 nor of 0..255"),
        (X * 1000 - 20, "are in no range that is known"),
        (X * 1000, "are in no range that is known"),
        (X.clone().fill_(torch.nan), "pixels must be finite"),
    ],
)
def test_other_ranges_are_refused(images: torch.Tensor, rule: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rule):
        in_unit_range(tmp_path, images, SPEC)


def test_labels_may_be_probabilities_or_logits(tmp_path: Path) -> None:
    logits = 3 * torch.randn(6, 3, generator=draws(1))
    logits[torch.arange(6), Y] = 9.0
    for value, note in ((logits.softmax(dim=1), "probabilities"), (logits, "taken as logits")):
        found = read_given(saved(tmp_path, (X, value)), SPEC)
        assert found.soft_labels is not None and note in " ".join(found.notes)
        expected = logits.softmax(dim=1)[[1, 2, 0, 5, 3, 4]].view(2, 3, 3)
        torch.testing.assert_close(found.soft_labels, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.images, EXPECTED)


@pytest.mark.parametrize(
    ("folders", "order"),
    [
        (("ant", "bee", "cow"), "the folders' names"),
        (("0000_x", "2_a", "01_z"), "the numbers that the folders' names begin with"),
        (("p", "q", "r"), "in the order of their names"),
    ],
)
def test_a_tree_of_files(folders: tuple[str, str, str], order: str, tmp_path: Path) -> None:
    for number, name in enumerate(folders):
        own = tmp_path / name
        own.mkdir()
        label = int(name.partition("_")[0]) if name[0].isdigit() else number
        for place in range(2):
            level = (EXPECTED[place, label] * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(level).save(own / f"{place}.png")
    (tmp_path / "readme.txt").write_text("not an image")
    found = read_given(tmp_path, SPEC)
    torch.testing.assert_close(found.images, EXPECTED)
    assert order in " ".join(found.notes)


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train"), ("x", "y")])
def test_arrays_by_their_usual_names(names: tuple[str, str], tmp_path: Path) -> None:
    arrays = {names[0]: np.moveaxis(LEVELS.numpy(), 1, -1), names[1]: Y.numpy()}
    np.savez(tmp_path / "set.npz", **arrays)
    torch.testing.assert_close(read_given(tmp_path / "set.npz", SPEC).images, EXPECTED)


def test_labels_of_any_whole_type_are_classes(tmp_path: Path) -> None:
    made = read_given(saved(tmp_path, (LEVELS, Y.to(torch.uint16))), SPEC)
    torch.testing.assert_close(made.images, EXPECTED)


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ((X, Y + 1), r"labels must be 0\.\.2, got 1\.\.3"),
        ((X, Y[:5]), r"labels must be 6 classes or \(6, 3\) probabilities"),
        ((X[:5], Y[:5]), "must have as many images of each class; class 0 has 1, class 1 has 2"),
        ((X[:, :1], Y), r"images must be \(N, 3, 4, 4\) as the data's are, got \(6, 1, 4, 4\)"),
        (X, "must hold \\(images, labels\\), got Tensor"),
        ({"pixels": X}, "needs images and labels, has pixels"),
        ((X, None), "images and labels must be arrays of numbers"),
        ((X, ["cat"] * 6), "images and labels must be arrays of numbers"),
        ((X > 0.5, Y), r"images must be uint8 or floats, got torch\.bool"),
        ((LEVELS.to(torch.uint16), Y), r"images must be uint8 or floats, got torch\.uint16"),
    ],
)
def test_what_is_no_set_is_refused(value: Any, rule: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"set\.pt: {rule}"):
        read_given(saved(tmp_path, value), SPEC)


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read_given(tmp_path / "set.pt", SPEC)
    torch.save(Harmful(), tmp_path / "set.pt")
    with pytest.raises(DataError, match="cannot be read as plain tensors"):
        read_given(tmp_path / "set.pt", SPEC)
    np.savez(tmp_path / "set.npz", images=np.array([Harmful()], dtype=object), labels=Y.numpy())
    with pytest.raises(DataError, match=r"set\.npz: damaged"):
        read_given(tmp_path / "set.npz", SPEC)
    assert capsys.readouterr().out == ""


def test_the_content_is_files_and_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = content_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_of(tmp_path) != first
    with pytest.raises(DataError, match="does not exist"):
        content_of(tmp_path / "nothing")
