"""How sure a network was of each image, epoch by epoch, and how hard that makes the image.

N images in the order of the training set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.checkpoint import Checkpoint
from guard.config import RegularizerConfig
from guard.data.images import ImageSet
from guard.methods.rded import Dynamics
from guard.models.modes import constant_statistics
from guard.training.pieces import within_memory
from guard.training.teacher import TeacherTraining, most_pieces


class Confidences:
    """The probability of every image's own class, after each of the last epochs of a training."""

    def __init__(self, images: ImageSet, device: torch.device, last: int, epochs: int) -> None:
        self._images, self._device, self._first = images, device, last - epochs
        self._epoch, self.rows = 0, list[Tensor]()

    def watch(self, model: nn.Module) -> None:
        """To be called after each epoch. The model is left as it is."""
        self._epoch += 1
        if self._epoch > self._first:
            with constant_statistics(model):
                self.rows.append(self._of(model))

    @torch.no_grad()
    def _of(self, model: nn.Module) -> Tensor:
        """(N,)."""
        found = []
        for x, y in self._images.batches(500, self._device):
            found.append(model(x).softmax(dim=1).gather(1, y[:, None]).squeeze(1).cpu())
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self.rows = state["epoch"], list(state["rows"])


def record(stage: Dynamics, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Write the confidences (epochs, N), float32: four bytes an image and epoch. Raises Diverged if
    the training does."""

    def run(pieces: int) -> Tensor:
        none = RegularizerConfig.named("none")
        training = TeacherTraining.of(stage, store, stage.seed, none, pieces)
        images = training.splits.train.near(training.device)
        found = Confidences(images, training.device, stage.last, stage.epochs)
        training.run(
            Checkpoint(store.scratch(stage)),
            after_epoch=found.watch,
            also={"confidences": found},
            until=stage.last,
        )
        return torch.stack(found.rows)

    confidences = within_memory(run, most_pieces(stage))
    save_file({"confidences": confidences}, folder / "dynamics.safetensors")
    return {"metrics": {}}


def difficulties(confidences: Tensor, over: int) -> Tensor:
    """CA2D's difficulty (N,) of confidences (J + W − 1, N): the deviation of each J = `over`
    consecutive epochs, averaged."""
    return confidences.double().unfold(0, over, 1).std(dim=2).mean(dim=0)
