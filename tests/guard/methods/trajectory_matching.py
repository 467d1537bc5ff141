"""Trajectory matching with a small network, on random experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from coloured import SPEC
from safetensors.torch import save_file
from torch import Tensor

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.methods.mtt import MTT
from guard.methods.mtt.matching import Matching
from guard.methods.mtt.snapshots import Trajectory
from guard.methods.mtt.trajectory import flat_parameters
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier, build_model
from helpers import CPU, draws

SNAPSHOTS = "snapshots.safetensors"


def convnet() -> Classifier:
    return build_model(ModelConfig(name="convnet", width=4, depth=2), SPEC).train()


def matching_of(
    config: MTT, model: Classifier, experts: list[Trajectory], spec: ImageSpec, ipc: int
) -> Matching:
    return Matching(
        config=config, model=model, experts=experts, spec=spec, ipc=ipc, seed=0, device=CPU
    )


def experts_at(folder: Path, *theta: Tensor) -> list[Trajectory]:
    """Experts with snapshots (epochs + 1, P)."""
    experts = []
    for number, rows in enumerate(theta):
        (folder / str(number)).mkdir()
        save_file({"theta": rows}, folder / str(number) / SNAPSHOTS)
        experts.append(Trajectory(folder / str(number)))
    return experts


def matching(ipc: int = 3, experts: list[Trajectory] | None = None, **config: Any) -> Any:
    settings = MTT(**{"student_steps": 5, "rate": 0.1, **config})
    return matching_of(settings, convnet(), experts or [], SPEC, ipc)


def synthetic(count: int = 12, seed: int = 3) -> Tensor:
    """u, images in [0, 1] behind the first layer, class after class."""
    x = torch.rand(count, 3, 8, 8, generator=draws(seed))
    layer: Tensor = Normalize(SPEC.mean, SPEC.std)(x)
    return layer


def theta_at(seed: int = 0, count: int = 1) -> Tensor:
    """Random parameters of the convnet, (count, P)."""
    start = flat_parameters(convnet())
    return start + 0.1 * torch.randn(count, len(start), generator=draws(seed))


def trajectory(folder: Path, epochs: int = 6) -> list[Trajectory]:
    return experts_at(folder, *theta_at(count=2 * epochs + 2).view(2, epochs + 1, -1))
