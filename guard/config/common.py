"""Sections that every trial has: network, machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from guard.config.rules import at_least
from guard.config.schema import LATER, Config

Seed = Annotated[int, at_least(0)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A network. Its first layer is always the normalisation of the data set."""

    name: Literal["convnet", "bn-convnet", "resnet18"] = "bn-convnet"
    width: Annotated[int, at_least(1)] = 32
    """Channels of the first block (convnet, bn-convnet)."""
    depth: Annotated[int, at_least(1, at_most=1000)] = 4
    """Convolutions (convnet, bn-convnet)."""
    norm: Literal["instance", "batch", "group", "layer", "none"] = "instance"
    """Normalisation layers of convnet (DC and MTT use instance)."""
    stem: Literal["auto", "32", "64", "224", "tiny-224"] = "auto"
    """ResNet-18's first layers by image side; tiny-224 is GUARD's Tiny ImageNet stem at 224 px."""
    input: Literal["normalize", "zca"] = "normalize"
    """The fixed first layer: mean and deviation of each channel, or ZCA whitening of the training
    images (as MTT on CIFAR; up to 4096 values an image)."""

    @property
    def reads_width(self) -> bool:
        return self.name != "resnet18"

    @property
    def has_batchnorm(self) -> bool:
        return self.name != "convnet" or self.norm == "batch"


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Config):
    """Where stages run. Part of a trial: float sums depend on the device and on the threads."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    num_threads: Annotated[int, at_least(1)] = 1
    """CPU threads of one stage."""
    tf32: bool = False
    """Let CUDA matrix products and convolutions round to TF32; fast mode does."""
    mode: Literal["exact", "fast"] = field(default="exact", metadata=LATER)
    """exact: float32 and deterministic kernels, so the same bytes each time on the same machine.
    fast: the fastest kernels, TF32, images channels last, and bfloat16 for what is differentiated
    once: a teacher's plain loss, recovered images, labels, students and attacks. A penalty's
    gradients and every verdict stay in float32. Bytes can differ from run to run."""
