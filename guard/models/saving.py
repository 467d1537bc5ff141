"""Models on disk: weights as safetensors, and what is needed to rebuild the network as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.models.networks import Classifier, build_model, committee

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def kept_weights(epoch: int) -> str:
    """The file of a network's weights as they are after an epoch of its training, from 1."""
    return f"epoch-{epoch:05d}.safetensors"


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """What its file holds."""
    return {name: value.cpu().contiguous() for name, value in model.state_dict().items()}


def save_model(model: Classifier, config: ModelConfig, spec: ImageSpec, folder: Path) -> None:
    """Write `model.safetensors` and `model.json`."""
    save_file(weights_of(model), folder / WEIGHTS)
    description = {"model": config.to_dict(), "spec": dataclasses.asdict(spec)}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")


def save_committee(folders: Sequence[Path], folder: Path) -> None:
    """Put saved networks of one data set together, for `load_model`."""
    members = [_described(own) for own in folders]
    description = {"committee": [own["model"] for own in members], "spec": members[0]["spec"]}
    save_file(weights_of(committee([load_model(own) for own in folders])), folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")


def _described(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))
    return found


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Classifier:
    """A model written by `save_model`, or several by `save_committee`, in evaluation mode. Its
    input is pixels in [0, 1]."""
    description = _described(folder)
    spec = spec_from_dict(description["spec"])
    configs = description.get("committee") or [description["model"]]
    members = [build_model(ModelConfig.from_dict(config), spec) for config in configs]
    model = committee(members) if "committee" in description else members[0]
    model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return model.to(device).eval()


def load_spec(folder: Path | str) -> ImageSpec:
    """The data set facts that a saved model was built for."""
    return spec_from_dict(_described(folder)["spec"])


def spec_from_dict(values: dict[str, Any]) -> ImageSpec:
    lists = {name: tuple(values[name]) for name in ("mean", "std", "class_names")}
    return ImageSpec(**{**values, **lists})
