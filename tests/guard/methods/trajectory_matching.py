"""Trajectory matching with a small network."""

from __future__ import annotations

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.methods.mtt import MTT
from guard.methods.mtt.matching import Matching
from guard.methods.mtt.snapshots import Trajectory
from guard.models.networks import Classifier, build_model
from helpers import CPU

SPEC = ImageSpec(
    channels=3,
    image_size=8,
    num_classes=4,
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
    class_names=tuple("abcd"),
)
SNAPSHOTS = "snapshots.safetensors"


def convnet() -> Classifier:
    return build_model(ModelConfig(name="convnet", width=4, depth=2), SPEC).train()


def matching_of(
    config: MTT, model: Classifier, experts: list[Trajectory], spec: ImageSpec, ipc: int
) -> Matching:
    return Matching(
        config=config, model=model, experts=experts, spec=spec, ipc=ipc, seed=0, device=CPU
    )
