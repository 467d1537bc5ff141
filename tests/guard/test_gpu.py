"""What must hold on a CUDA device: the same bytes whatever the process has computed before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from guard.artifacts import ArtifactStore
from guard.stage import Stage
from guard.trial import TrialConfig

EXPERTS = {
    "method": "mtt",
    "model": {"name": "convnet", "width": 16, "depth": 3},
    "mtt.expert_epochs": 1,
    "mtt.max_start": 1,
    "mtt.experts.count": 1,
    "mtt.experts.train": {"epochs": 2, "lr": 0.05, "batch_size": 64, "augment": ["dsa"]},
}


def data(folder: Path) -> dict[str, str]:
    """Two classes of 32 px noise around a bright and a dark mean, as arrays."""
    draws = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 600), ("test", 40)):
        y = np.arange(count) % 2
        x = draws.normal(90 + 60 * y[:, None, None, None], 40, (count, 32, 32, 3))
        arrays |= {f"x_{part}": x.clip(0, 255).astype(np.uint8), f"y_{part}": y}
    np.savez(folder / "two.npz", **arrays)
    return {"name": "npz", "path": str(folder / "two.npz")}


def teacher(folder: Path, **settings: Any) -> Stage:
    config = TrialConfig().override(
        {
            "data": data(folder),
            "model": {"width": 16, "depth": 3},
            "squeeze": {"epochs": 2, "batch_size": 64, "lr": 0.05, "augment": ["crop", "flip"]},
            "compute.device": "cuda",
            **settings,
        }
    )
    return config.own.teachers(config.shared)[0]


@pytest.mark.gpu
@pytest.mark.parametrize("experts", [{}, EXPERTS], ids=["BatchNorm", "instance norm"])
@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
def test_a_penalised_network_does_not_depend_on_what_was_computed_before(
    bn: str, experts: dict[str, Any], tmp_path: Path
) -> None:
    """The first one of a process once differed from the second."""
    penalty = {"weight": 0.1, "h": 0.25, "fraction": 0.25, "bn": bn}
    stage = teacher(tmp_path, regularizer=penalty, **experts)
    made = []
    for number in range(3):
        store = ArtifactStore(tmp_path / str(number))
        artifact = store.get_or_build(stage)
        assert "diverged" not in artifact.summary
        made.append(load_file(artifact.path / "model.safetensors"))
    for other in made[1:]:
        assert all(other[name].equal(tensor) for name, tensor in made[0].items())
