"""A set that somebody made becomes one of ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from guard.artifacts import ArtifactStore
from guard.config.training import Labels
from guard.data.datasets import load_data
from guard.data.given import GivenSet, check_content, content_of, read_given
from guard.data.names import shown
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet, save_part
from guard.errors import DataError
from guard.methods.given import GivenImages, SetFacts
from guard.portable import CARD

KEPT = ("learned_lr", "partition")
"""What a card says that a student needs."""


def given_set(path: Path, spec: ImageSpec) -> tuple[DistilledSet, tuple[str, ...]]:
    """A set in any form as one of ours, and what was taken for what. spec: of the data set. Raises
    DataError."""
    if is_product(path):
        made = DistilledSet.load(path)
        ours = (made.spec.channels, made.spec.image_size, made.spec.num_classes)
        theirs = (spec.channels, spec.image_size, spec.num_classes)
        if ours != theirs:
            raise DataError(
                f"{shown(path)}: channels, side and classes must be {theirs} as the data's are, "
                f"got {ours}"
            )
        _check_rate(path, made.card)
        return dataclasses.replace(made, spec=spec), ()
    found = read_given(path, spec)
    return _as_distilled(found, spec), found.notes


def _check_rate(path: Path, card: Mapping[str, Any]) -> None:
    """Raises DataError for a learning rate that nobody can train at."""
    rate = card.get("learned_lr", 1.0)
    if not (isinstance(rate, float | int) and 0 < rate < math.inf):
        raise DataError(
            f"{shown(path / 'card.json')}: learned_lr must be above 0 and finite, got "
            f"{shown(str(rate))}"
        )


def is_product(path: Path) -> bool:
    """Whether it is the folder of a distilled set of ours."""
    return (path / "images.safetensors").is_file() and (path / "card.json").is_file()


def _as_distilled(found: GivenSet, spec: ImageSpec) -> DistilledSet:
    soft = found.soft_labels
    return DistilledSet(
        images=found.images.flatten(0, 1),
        labels=torch.arange(spec.num_classes).repeat(len(found.images)),
        soft_labels=None if soft is None else soft.flatten(0, 1),
        spec=spec,
        card={},
    )


def facts_of(path: str, place: Path, spec: ImageSpec) -> SetFacts:
    """What planning knows of the set at a place. path: its name. Raises DataError."""
    sha256 = content_of(place)
    made, notes = given_set(place, spec)
    own: Labels = "hard" if made.soft_labels is None else "own"
    return SetFacts(
        path=path,
        place=str(place),
        sha256=sha256,
        ipc=made.ipc,
        partition=made.partition,
        labels=own if made.portable is None else made.portable.kind,
        learned_lr="learned_lr" in made.card,
        notes=notes,
    )


def read_set(stage: GivenImages, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Keep the images of a set, its own labels and its learning rate, as any part is kept. Raises
    DataError for a set that is not there, or not what it was."""
    if not stage.path:
        raise DataError("given.path: names no set")
    path = Path(stage.path)
    if stage.sha256:
        check_content(path, stage.sha256)
    made, notes = given_set(path, load_data(stage.data).spec)
    if made.ipc != stage.ipc:
        raise DataError(f"ipc: {shown(path)} has {made.ipc} images per class, got {stage.ipc}")
    facts: dict[str, Any] = {name: made.card[name] for name in KEPT if name in made.card}
    by_class = (made.ipc, made.spec.num_classes)
    if made.soft_labels is not None:
        facts["soft_labels"] = made.soft_labels.unflatten(0, by_class)
    if made.portable is not None:
        facts[CARD] = {**made.card[CARD], **made.portable.save(folder)}
    save_part(folder, made.images.unflatten(0, by_class), made.spec, **facts)
    return {"metrics": {}, "notes": list(notes)}
