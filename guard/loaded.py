"""Networks that somebody else trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from guard.artifacts import ArtifactStore
from guard.data.datasets import load_data
from guard.data.given import check_content
from guard.data.names import shown
from guard.errors import DataError
from guard.models.networks import build_model
from guard.models.saving import save_model
from guard.stages import Loaded

PREFIXES = ("module.", "model.", "_orig_mod.")
"""That others put before every name of a state dict."""


def load_weights(stage: Loaded, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Keep a network that somebody trained like one of ours. Raises DataError for weights that are
    not of the named architecture."""
    path, spec = Path(stage.path), load_data(stage.data).spec
    check_content(path, stage.sha256)
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
