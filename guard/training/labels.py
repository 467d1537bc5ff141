"""A teacher's logits of a distilled set: of every epoch's batches, of a pool of batches, or of each
image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from guard.artifacts import Artifact, ArtifactStore
from guard.checkpoint import Checkpoint
from guard.device import setup
from guard.distilled import DistilledSet
from guard.models.input_layer import first_layer
from guard.stages import Relabel
from guard.training.labelling import labelling
from guard.training.recipe import Recipe, near

FILE_BYTES = 2**26


def relabel(stage: Relabel, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """The teacher's logits for every augmented batch of the part's epochs: float16 (N, K) an epoch,
    in the order in which the student sees the images."""
    device = setup(stage.compute)
    distilled = DistilledSet.load(store.read(stage.distilled).path).expanded()
    layer = first_layer(stage.whitening, distilled.spec, store).to(device)
    recipe = Recipe.of(stage.student, layer)
    images, hard = near(distilled.images, device), distilled.one_hot().to(device)
    epochs = stage.student.train.epochs
    together = epochs_in_a_file(len(images), distilled.spec.num_classes)
    checkpoint = Checkpoint(store.scratch(stage))
    with labelling(store.read(stage.teacher).path, stage.bn, device, stage.compute) as teacher:

        def write(first: int, path: Path) -> None:
            logits = {
                str(epoch): torch.cat([teacher(x) for x, _ in recipe.batches(images, hard, epoch)])
                for epoch in range(first, min(first + together, epochs))
            }
            save_file({epoch: values.half().cpu() for epoch, values in logits.items()}, path)

        begins = range(0, epochs, together)[stage.part :: stage.parts]
        names = {first: f"logits-{first:05d}.safetensors" for first in begins}
        made = {name: checkpoint.file(name, partial(write, first)) for first, name in names.items()}
    for name, path in made.items():
        path.rename(folder / name)
    return {"metrics": {}, "epochs_in_a_file": together}


def epochs_in_a_file(count: int, num_classes: int) -> int:
    """As many as keep a file of logits of so many images, and the memory that writing it takes,
    near 64 MiB."""
    return max(FILE_BYTES // (2 * count * num_classes), 1)


@dataclass(frozen=True)
class SoftLabels:
    """The logits that `relabel` wrote, read an epoch at a time."""

    folders: Sequence[Path]
    """Of the parts, which have one file after another in turn."""
    epochs_in_a_file: int

    @classmethod
    def of(cls, relabelled: Sequence[Artifact]) -> SoftLabels:
        """Of all parts, in order."""
        folders = [part.path for part in relabelled]
        return cls(folders, relabelled[0].summary["epochs_in_a_file"])

    def epoch(self, epoch: int) -> Tensor:
        """float32 (N, K), in the order of the epoch's batches."""
        number = epoch // self.epochs_in_a_file
        first = number * self.epochs_in_a_file
        path = self.folders[number % len(self.folders)] / f"logits-{first:05d}.safetensors"
        with safe_open(path, framework="pt") as file:
            logits: Tensor = file.get_tensor(str(epoch)).float()
        return logits
