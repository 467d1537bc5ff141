"""Sets and networks that somebody else made, as stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from guard.artifacts import ArtifactStore
from guard.config import DataConfig
from guard.data.datasets import load_data
from guard.data.given import GivenSet, content_of, read_given
from guard.data.names import shown
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet
from guard.errors import DataError
from guard.models.networks import build_model
from guard.models.saving import save_model
from guard.stages import Given, Loaded

PREFIXES = ("module.", "model.", "_orig_mod.")
"""That others put before every name of a state dict."""


def is_product(path: Path) -> bool:
    """Whether it is the folder of a distilled set of ours."""
    return (path / "images.safetensors").is_file() and (path / "card.json").is_file()


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
        return dataclasses.replace(made, spec=spec), ()
    found = read_given(path, spec)
    return _as_distilled(found, path, spec), found.notes


def _as_distilled(found: GivenSet, path: Path, spec: ImageSpec) -> DistilledSet:
    count = len(found.images)
    soft = found.soft_labels
    return DistilledSet(
        images=found.images.flatten(0, 1),
        labels=torch.arange(spec.num_classes).repeat(count),
        soft_labels=None if soft is None else soft.flatten(0, 1),
        spec=spec,
        card={"format": 2, "method": "given", "ipc": count, "source": path.name},
    )


def read_set(stage: Given, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Keep a set that somebody made like one of ours."""
    path = Path(stage.path)
    _check_content(path, stage.sha256)
    made, notes = given_set(path, _spec_of(stage.data))
    made.save(folder)
    return {"metrics": {}, "notes": list(notes)}


def load_weights(stage: Loaded, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Keep a network that somebody trained like one of ours. Raises DataError for weights that are
    not of the named architecture."""
    path, spec = Path(stage.path), _spec_of(stage.data)
    _check_content(path, stage.sha256)
    model = build_model(stage.model, spec)
    weights = state_dict(path)
    whole = any(name.startswith("network.") for name in weights)
    try:
        (model if whole else model.network).load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        reason = " ".join(line.strip() for line in lines[1:3] or lines)
        raise DataError(
            f"{shown(path)}: is no state dict of {stage.model.name} for these images ({reason})"
        ) from None
    save_model(model, stage.model, spec, folder)
    return {"metrics": {}, "history": []}


def state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a .safetensors file, or in what torch.save wrote of them alone, under the
    names that the network has. Raises DataError."""
    try:
        if path.suffix.lower() == ".safetensors":
            held: Any = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{shown(path)}: cannot be read ({shown(str(error))})") from None
    except Exception as error:  # damaged files make torch raise anything
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{shown(path)}: cannot be read as plain tensors ({shown(line)})") from None
    for key in ("state_dict", "model", "net"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not all(torch.is_tensor(v) for v in held.values()):
        raise DataError(f"{shown(path)}: holds no state dict")
    for prefix in PREFIXES:
        if held and all(name.startswith(prefix) for name in held):
            held = {name.removeprefix(prefix): value for name, value in held.items()}
    return dict(held)


def _check_content(path: Path, sha256: str) -> None:
    if content_of(path) != sha256:
        raise DataError(f"{shown(path)}: is not what it was when the study began")


def _spec_of(data: DataConfig) -> ImageSpec:
    return load_data(data).spec
