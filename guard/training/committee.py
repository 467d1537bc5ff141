"""Teachers that are made of trained ones: stopped early, or several together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guard.artifacts import ArtifactStore
from guard.models.saving import DESCRIPTION, WEIGHTS, kept_weights, save_committee
from guard.stages import Committee, Early


def stopped_early(stage: Early, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """The network that its training kept after an epoch, and what was found of it till then."""
    made = store.read(stage.teacher)
    shutil.copyfile(made.path / kept_weights(stage.epoch), folder / WEIGHTS)
    shutil.copyfile(made.path / DESCRIPTION, folder / DESCRIPTION)
    history = made.summary["history"][: stage.epoch]
    last = history[-1]
    metrics = {"train_loss": last["loss"], "train_accuracy": last["accuracy"]}
    return {"metrics": metrics, "history": history}


def together(stage: Committee, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """The networks in one file; means of what was found of them."""
    made = [store.read(teacher) for teacher in stage.teachers]
    save_committee([own.path for own in made], folder)
    rows = [own.summary["metrics"] for own in made]
    names = set.intersection(*(set(row) for row in rows))
    metrics = {name: sum(row[name] for row in rows) / len(rows) for name in sorted(names)}
    return {"metrics": metrics, "history": []}
