"""A look at a teacher before its training is over, that says what it will come to.

A network in the middle of its training is far from the one at its end: its learning rate is high,
and its running statistics lag behind its weights. The mean of its weights over an epoch, with the
statistics of that mean (stochastic weight averaging, https://arxiv.org/abs/1803.05407), is near to
what a falling learning rate leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from guard.artifacts import ArtifactStore
from guard.data.images import ImageSet
from guard.group import Group
from guard.models.compiling import eager
from guard.models.networks import Classifier
from guard.models.synchronized import apart
from guard.stages import EarlySqueeze, Squeeze
from guard.training.teacher import STATE, begun, teacher_training, trained_by

BATCH = 500
"""Images of a pass for the statistics."""


class LastEpoch:
    """The mean of a network's weights after each step of the last epoch of its training."""

    def __init__(self, model: Classifier, epochs: int) -> None:
        self._average, self._epochs = AveragedModel(model), epochs
        self._done = 0

    def after_step(self, model: nn.Module) -> None:
        if self._done == self._epochs - 1:
            self._average.update_parameters(model)

    def after_epoch(self, model: nn.Module) -> None:
        self._done += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self._done, "average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["epochs"]
        self._average.load_state_dict(state["average"])

    def into(self, model: Classifier, images: ImageSet, device: torch.device) -> None:
        """Give a network the mean, and its statistics of images as they are."""
        model.load_state_dict(self._average.module.state_dict())
        take_statistics(model, images, device)


def take_statistics(model: Classifier, images: ImageSet, device: torch.device) -> None:
    """Give a network's BatchNorm layers the statistics of images as they are: those of its training
    are of other weights."""
    with apart(model), eager(model):
        update_bn(images.batches(BATCH, device), model)


def early_squeeze(stage: EarlySqueeze, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Train a network for its first epochs, save the mean of the last one, and keep the state.
    Raises Diverged if it is not finite."""
    return trained_by(early_squeeze_together, stage, store, folder)


def early_squeeze_together(
    stage: Squeeze, store: ArtifactStore, folder: Path, pieces: int, group: Group
) -> Mapping[str, Any]:
    """What one process of a group does of `early_squeeze`."""
    training = teacher_training(stage, store, pieces, group)
    last = LastEpoch(training.model, stage.epochs)
    history = training.run(
        begun(stage, store, group),
        last.after_step,
        last.after_epoch,
        {"last epoch": last},
        until=stage.epochs,
    )
    if group.rank > 0:
        return {}
    if store.scratch(stage).exists():
        store.scratch(stage).rename(folder / STATE)
    last.into(training.model, training.splits.train, training.device)
    return training.save(history, folder)
