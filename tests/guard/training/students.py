"""A student's stages, and what it is given to train on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import guard.training.student
from guard.checkpoint import Checkpoint
from guard.models.input_layer import Normalize
from guard.stage import Stage
from guard.training.loop import Epoch
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import draws

SPACE = Normalize((0.3,), (0.25,))


def stage_named(config: TrialConfig, name: str) -> Stage:
    return next(stage for stage in plan(config) if stage.name == name)


def logits(seed: int, count: int = 6, classes: int = 5) -> Tensor:
    return 4 * torch.randn(count, classes, generator=draws(seed), dtype=torch.float64)


def replay(
    config: TrialConfig, trial: SimpleNamespace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """What `train_student` gives to the training loop, which does not run."""
    given = SimpleNamespace()

    def take(
        model: Any,
        run: Any,
        batches: Any,
        objective: Any,
        after_step: Any,
        checkpoint: Checkpoint,
        also: Any,
    ) -> list[Epoch]:
        given.model, given.run, given.objective = model, run, objective
        given.initial = {name: value.clone() for name, value in model.state_dict().items()}
        given.epochs = [list(batches(epoch)) for epoch in range(run.epochs)]
        return [Epoch(epoch=0, lr=0.0, loss=0.0, accuracy=0.0)]

    monkeypatch.setattr(guard.training.student, "train", take)
    guard.training.student.train_student(stage_named(config, "student"), trial.store, folder)
    return given
