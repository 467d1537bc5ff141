"""A distilled set is put together: a prefix of its parts, their labels, the card."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.config import StudentConfig
from guard.data.tiles import enlarged, parts_of_set
from guard.device import setup
from guard.distilled import DistilledSet, save_card
from guard.errors import Diverged
from guard.models.input_layer import first_layer
from guard.models.saving import load_model, load_spec, spec_from_dict
from guard.portable import CARD, FILE, PortableLabels
from guard.stages import Distilled
from guard.tensors import all_finite, pieces, write_rows
from guard.training.labelling import labelling


def assemble(stage: Distilled, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Put the DistilledSet together: a prefix of the parts, the labels, the card. Raises Diverged
    for images that are not finite."""
    device = setup(stage.compute)
    paths = [store.read(part).path for part in stage.parts]
    parts = [load_file(path / "images.safetensors") for path in paths]
    facts = json.loads((paths[0] / "part.json").read_text(encoding="utf-8"))
    spec = spec_from_dict(facts.pop("spec"))
    images = in_prefix_order([part["images"] for part in parts], stage.ipc)
    if not all(map(all_finite, images)):
        raise Diverged("the distilled images are not finite")
    labels = torch.arange(spec.num_classes).repeat(stage.ipc)
    rows, metrics = {"images": images, "labels": [labels]}, {}
    if "soft_labels" in parts[0]:
        rows["soft_labels"] = in_prefix_order([part["soft_labels"] for part in parts], stage.ipc)
    if stage.teacher is not None:
        teacher = load_model(store.read(stage.teacher).path, device)
        k = facts.get("partition", 1)
        soft = rows["soft_labels"] = [probabilities(teacher, part, k) for part in images]
        agrees = torch.cat(soft).argmax(dim=1) == labels
        metrics["teacher_agreement"] = float(agrees.double().mean())
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
    write_rows(folder / "images.safetensors", rows)
    if stage.portable is not None:
        written = load_file(folder / "images.safetensors")["images"]
        seen = parts_of_set(written, spec.num_classes, facts.get("partition", 1))
        made = portable_labels(stage, stage.portable, store, seen, device)
        card[CARD] = {**made.save(folder), "bn": stage.bn}
    elif CARD in facts:
        shutil.copyfile(paths[0] / FILE, folder / FILE)
    save_card(card, spec, folder)
    DistilledSet.load(folder).contact_sheet().save(folder / "images.png")
    return {"metrics": metrics}


def portable_labels(
    stage: Distilled,
    student: StudentConfig,
    store: ArtifactStore,
    images: Tensor,
    device: torch.device,
) -> PortableLabels:
    """The teacher's logits of images (N, C, H, W), as `student` has them."""
    assert stage.teacher is not None
    path = store.read(stage.teacher).path
    with labelling(path, stage.bn, device, stage.compute) as teacher:
        if student.labels == "fixed":
            return PortableLabels.fixed(student, teacher, images)
        layer = first_layer(stage.whitening, load_spec(path), store).to(device)
        return PortableLabels.pooled(student, teacher, images, layer)


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor, k: int = 1) -> Tensor:
    """softmax of the model's logits for images (N, C, H, W), (N, K), on the CPU; of images of k by
    k parts the mean over these."""
    device = next(model.parameters()).device

    def of(x: Tensor) -> Tensor:
        shares: Tensor = model(enlarged(x.to(device), k).flatten(0, 1)).softmax(dim=1)
        return shares.unflatten(0, (len(x), -1)).mean(dim=1).cpu() if k > 1 else shares.cpu()

    return torch.cat([of(x) for x in pieces(images, 500)])


def in_prefix_order(chunks: Sequence[Tensor], ipc: int) -> list[Tensor]:
    """The first `ipc` images of each class, part after part (n·K, C, H, W), from chunks of (images
    per class, K, C, H, W)."""
    firsts = itertools.accumulate((len(chunk) for chunk in chunks), initial=0)
    kept = [chunk[: max(ipc - first, 0)] for chunk, first in zip(chunks, firsts, strict=False)]
    return [chunk.flatten(0, 1) for chunk in kept if len(chunk)]
