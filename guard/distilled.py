"""The distilled set: the product of a trial, usable without this library's training code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from guard.artifacts import ArtifactStore
from guard.data.spec import ImageSpec
from guard.device import setup
from guard.models.saving import load_model, spec_from_dict
from guard.stages import Distilled

CELL_MIN_PX = 48


@dataclass(frozen=True, kw_only=True)
class DistilledSet:
    """Synthetic images, stored losslessly, and a card that says where they come from.

    Image i of class c is number i·K + c, so the set for a smaller IPC is a prefix.
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

    @property
    def ipc(self) -> int:
        return len(self.labels) // self.spec.num_classes

    @classmethod
    def load(cls, folder: Path | str) -> DistilledSet:
        """Read `images.safetensors` and `card.json` of a folder."""
        card = json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "images.safetensors")
        spec = spec_from_dict(card["spec"])
        return cls(
            images=tensors["images"],
            labels=tensors["labels"],
            soft_labels=tensors.get("soft_labels"),
            spec=spec,
            card=card,
        )

    def save(self, folder: Path | str) -> None:
        tensors = {"images": self.images, "labels": self.labels}
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, Path(folder) / "images.safetensors")
        self.save_card(folder)

    def save_card(self, folder: Path | str) -> None:
        card = {**self.card, "spec": dataclasses.asdict(self.spec)}
        (Path(folder) / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")

    def one_hot(self) -> Tensor:
        """float32 (K·ipc, K), the labels as distributions."""
        return torch.nn.functional.one_hot(self.labels, self.spec.num_classes).float()

    def dataset(self, *, soft: bool = False) -> TensorDataset:
        """(image, label) pairs; with `soft`, (image, probabilities). Raises ValueError if there are
        no soft labels."""
        if soft and self.soft_labels is None:
            raise ValueError("this distilled set has no soft labels; its method has no teacher")
        targets = self.soft_labels if soft else self.labels
        assert targets is not None
        return TensorDataset(self.images, targets)

    def export(self, folder: Path | str) -> None:
        """Write an ImageFolder tree, <folder>/<class number>_<class name>/<number>.png, 8 bits, and
        the card."""
        for number, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            place = Path(folder) / class_folder(self.spec, int(label))
            place.mkdir(parents=True, exist_ok=True)
            to_picture(image).save(place / f"{number // self.spec.num_classes:04d}.png")
        self.save_card(folder)

    def contact_sheet(self, max_columns: int = 10, max_rows: int = 20) -> Image.Image:
        """One picture: a row a class (the first `max_rows`), up to `max_columns` images each."""
        rows = min(self.spec.num_classes, max_rows)
        columns = min(self.ipc, max_columns)
        side = max(self.spec.image_size, CELL_MIN_PX)
        sheet = Image.new("RGB", (90 + columns * (side + 2), rows * (side + 2)), "white")
        draw = ImageDraw.Draw(sheet)
        for row in range(rows):
            draw.text(
                (4, row * (side + 2) + side // 2 - 6), self.spec.class_names[row][:13], "black"
            )
            for column in range(columns):
                picture = to_picture(self.images[column * self.spec.num_classes + row])
                cell = picture.resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(cell, (90 + column * (side + 2), row * (side + 2)))
        return sheet


def class_folder(spec: ImageSpec, label: int) -> str:
    """A folder name that sorts by label and cannot leave its parent."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in spec.class_names[label])
    return f"{label:04d}_{name}"


def to_picture(image: Tensor) -> Image.Image:
    """(C, H, W) in [0, 1] to an 8-bit grey or RGB picture, rounded to the nearest level."""
    pixels = image.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


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


def assemble(stage: Distilled, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Put the DistilledSet together: a prefix of the parts, the labels, the card."""
    device = setup(stage.compute)
    paths = [store.read(part).path for part in stage.parts]
    parts = [load_file(path / "images.safetensors") for path in paths]
    facts = json.loads((paths[0] / "part.json").read_text(encoding="utf-8"))
    spec = spec_from_dict(facts.pop("spec"))
    images, labels = in_prefix_order([part["images"] for part in parts], stage.ipc)
    soft, metrics = None, {}
    if "soft_labels" in parts[0]:
        soft, _ = in_prefix_order([part["soft_labels"] for part in parts], stage.ipc)
    if stage.teacher is not None:
        soft = probabilities(load_model(store.read(stage.teacher).path, device), images)
        metrics["teacher_agreement"] = float((soft.argmax(dim=1) == labels).double().mean())
    made_by = {
        role: made.description
        for role, made in stage.inputs.items()
        if role in ("teacher", "part-0000")
    }
    card = {
        "format": 2,
        "method": stage.method,
        "ipc": stage.ipc,
        **facts,
        "inputs": stage.description["inputs"],
        "made_by": made_by,
    }
    distilled = DistilledSet(images=images, labels=labels, soft_labels=soft, spec=spec, card=card)
    distilled.save(folder)
    distilled.contact_sheet().save(folder / "images.png")
    return {"metrics": metrics}


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """softmax of the model's logits, (N, K), on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model(x.to(device)).softmax(dim=1).cpu() for x in images.split(500)])


def in_prefix_order(chunks: list[Tensor], ipc: int) -> tuple[Tensor, Tensor]:
    """Images (ipc·K, C, H, W) and labels from chunks of (images per class, K, C, H, W)."""
    images = torch.cat(chunks)[:ipc]
    labels = torch.arange(images.shape[1]).repeat(len(images))
    return images.flatten(0, 1).contiguous(), labels
