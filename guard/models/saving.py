"""Models on disk: weights as safetensors, and what is needed to rebuild the network as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.models.networks import Classifier, build_model


def save_model(model: Classifier, config: ModelConfig, spec: ImageSpec, folder: Path) -> None:
    """Write `model.safetensors` and `model.json`."""
    weights = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    description = {"model": config.to_dict(), "spec": dataclasses.asdict(spec)}
    (folder / "model.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Classifier:
    """A model written by `save_model`, in evaluation mode. Its input is pixels in [0, 1]."""
    description = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
    model = build_model(ModelConfig.from_dict(description["model"]), load_spec(folder))
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.to(device).eval()


def load_spec(folder: Path | str) -> ImageSpec:
    """The data set facts that a saved model was built for."""
    return spec_from_dict(
        json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))["spec"]
    )


def spec_from_dict(values: dict[str, Any]) -> ImageSpec:
    lists = {name: tuple(values[name]) for name in ("mean", "std", "class_names")}
    return ImageSpec(**{**values, **lists})
