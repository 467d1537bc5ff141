"""The distilled set: the product of a trial, usable without this library's training code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import TensorDataset

from guard.data.names import shown
from guard.data.spec import ImageSpec
from guard.data.tiles import parts_of_set
from guard.errors import DataError
from guard.models.saving import spec_from_dict
from guard.pictures import contact_sheet, to_picture
from guard.portable import PortableLabels
from guard.tensors import all_finite, write_rows

ROUNDING = 1e-3
"""By which pixels may leave [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class DistilledSet:
    """Synthetic images, stored losslessly, and a card that says where they come from.

    Image i of class c is number i·K + c, so the set for a smaller IPC is a prefix. A set that was
    read lies in its file, and takes memory only as far as it is looked at.
    """

    images: Tensor
    """float32 (K·ipc, C, H, W) in [0, 1]."""
    labels: Tensor
    """int64 (K·ipc,)."""
    soft_labels: Tensor | None
    """float32 (K·ipc, K): probabilities of the teacher, or of the target experts, for the images as
    they are; None without either."""
    spec: ImageSpec
    card: dict[str, Any]
    """Method, IPC, the stages that it was made by."""
    portable: PortableLabels | None = None
    """A teacher's logits for training as if it were there (student.labels = fixed, budget)."""

    @property
    def ipc(self) -> int:
        return len(self.labels) // self.spec.num_classes

    @property
    def partition(self) -> int:
        """k: each image is k by k smaller ones of its class, which a student sees enlarged. 1: each
        is one."""
        return int(self.card.get("partition", 1))

    def expanded(self) -> DistilledSet:
        """What a student is trained on: of images that are several, these as images of their own,
        in the same order of classes. Their soft labels are those of the whole."""
        k = self.partition
        if k == 1:
            return self
        soft = self.soft_labels
        return replace(
            self,
            images=parts_of_set(self.images, self.spec.num_classes, k),
            labels=self.labels.repeat(k * k),
            soft_labels=None if soft is None else parts_of_set(soft, self.spec.num_classes, k),
            card={**self.card, "partition": 1, "ipc": self.ipc * k * k},
        )

    @classmethod
    def load(cls, folder: Path | str) -> DistilledSet:
        """Read `images.safetensors`, `card.json` and, if the card names labels,
        `labels.safetensors` of a folder. Raises DataError, which names the file and the rule, for
        what is no distilled set."""
        place = Path(folder) / "images.safetensors"
        card, spec = _read_card(Path(folder) / "card.json")
        tensors = _read_tensors(place)
        try:
            _check_tensors(tensors, spec)
        except ValueError as error:
            raise DataError(f"{shown(place)}: {error}") from None
        count = len(tensors["labels"]) * card.get("partition", 1) ** 2
        return cls(
            images=tensors["images"],
            labels=tensors["labels"],
            soft_labels=tensors.get("soft_labels"),
            spec=spec,
            card=card,
            portable=PortableLabels.load(folder, card, spec, count),
        )

    def save(self, folder: Path | str) -> None:
        tensors = {"images": [self.images], "labels": [self.labels]}
        if self.soft_labels is not None:
            tensors["soft_labels"] = [self.soft_labels]
        write_rows(Path(folder) / "images.safetensors", tensors)
        if self.portable is not None:
            self.portable.save(folder)
        save_card(self.card, self.spec, folder)

    def one_hot(self) -> Tensor:
        """float32 (K·ipc, K), the labels as distributions."""
        return torch.nn.functional.one_hot(self.labels, self.spec.num_classes).float()

    def dataset(self, *, soft: bool = False) -> TensorDataset:
        """(image, label) pairs to train on (`expanded`); with `soft`, (image, probabilities).
        Raises ValueError if there are no soft labels."""
        if soft and self.soft_labels is None:
            raise ValueError("this distilled set has no soft labels; its method has no teacher")
        own = self.expanded()
        targets = own.soft_labels if soft else own.labels
        assert targets is not None
        return TensorDataset(own.images, targets)

    def export(self, folder: Path | str) -> None:
        """Write an ImageFolder tree, <folder>/<class number>_<class name>/<number>.png, 8 bits
        (`guard.pictures.to_picture`), and the card. A set with portable labels is saved whole
        beside them, since those are of the images before they are rounded."""
        for number, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            place = Path(folder) / class_folder(self.spec, int(label))
            place.mkdir(parents=True, exist_ok=True)
            to_picture(image).save(place / f"{number // self.spec.num_classes:04d}.png")
        if self.portable is not None:
            self.save(folder)
        save_card(self.card, self.spec, folder)

    def contact_sheet(self, max_columns: int = 10, max_rows: int = 20) -> Image.Image:
        """One picture: a row a class, see `guard.pictures.contact_sheet`."""
        return contact_sheet(self.images, self.spec, max_columns, max_rows)


def save_card(card: Mapping[str, Any], spec: ImageSpec, folder: Path | str) -> None:
    text = json.dumps({**card, "spec": dataclasses.asdict(spec)}, indent=1)
    (Path(folder) / "card.json").write_text(text, encoding="utf-8")


def _read_card(path: Path) -> tuple[dict[str, Any], ImageSpec]:
    """A card and its spec. Raises DataError unless that is complete."""
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        spec = spec_from_dict(card["spec"])
        counts = (len(spec.class_names), len(spec.mean), len(spec.std))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{shown(path)}: is no card of a distilled set ({shown(str(error))})"
        ) from None
    if counts != (spec.num_classes, spec.channels, spec.channels) or spec.num_classes < 1:
        raise DataError(
            f"{shown(path)}: its spec must name every class, and a mean and std a channel"
        )
    k = card.get("partition", 1)
    if not isinstance(k, int) or k < 1 or spec.image_size % k:
        raise DataError(
            f"{shown(path)}: partition must divide {spec.image_size} px, got {shown(str(k))}"
        )
    return card, spec


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
    except SafetensorError as error:
        raise DataError(f"{shown(path)}: damaged ({shown(str(error))})") from None


def _check_tensors(tensors: Mapping[str, Tensor], spec: ImageSpec) -> None:
    """Raises ValueError, which says the rule, for tensors that are no set of the spec's images."""
    for name, dtype in (("images", torch.float32), ("labels", torch.int64)):
        if name not in tensors:
            raise ValueError(f"has no {name}; needs images and labels")
        if tensors[name].dtype != dtype:
            raise ValueError(f"{name} must be {dtype}, got {tensors[name].dtype}")
    images, labels, soft = tensors["images"], tensors["labels"], tensors.get("soft_labels")
    count, side = len(images) if images.ndim else 0, spec.image_size
    shapes = {
        "images": (images, (count, spec.channels, side, side)),
        "labels": (labels, (count,)),
        "soft_labels": (soft, (count, spec.num_classes)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")
    if count == 0 or count % spec.num_classes:
        raise ValueError(
            f"must have as many images of each of {spec.num_classes} classes, got {count}"
        )
    if not torch.equal(labels, torch.arange(spec.num_classes).repeat(count // spec.num_classes)):
        raise ValueError(
            f"labels must be 0..{spec.num_classes - 1} over and over, got "
            f"{int(labels.min())} to {int(labels.max())}"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(f"pixels must be in 0..1, got {low:g} to {high:g}")
    if soft is not None and not all_finite(soft):
        raise ValueError("soft_labels must be finite")


def class_folder(spec: ImageSpec, label: int) -> str:
    """A folder name that sorts by label and cannot leave its parent."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in spec.class_names[label])
    return f"{label:04d}_{name}"


def save_part(folder: Path, images: Tensor, spec: ImageSpec, **facts: Any) -> None:
    """Write what a `Part` makes: images (m, K, C, H, W) in [0, 1], and plain
    values for the card; tensors among them are soft labels (m, K, K)."""
    tensors = {name: value for name, value in facts.items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in facts.items() if name not in tensors}
    save_file(
        {name: value.cpu().contiguous() for name, value in {"images": images, **tensors}.items()},
        folder / "images.safetensors",
    )
    description = {"spec": dataclasses.asdict(spec), **plain}
    (folder / "part.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
