"""Sections that every trial has: network, machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from guard.config.rules import OneOf, at_least
from guard.config.schema import LATER, Config
from guard.errors import ConfigError

NETWORKS = ("convnet", "bn-convnet", "resnet18")
TORCHVISION = "torchvision:"
TORCHVISION_NAME = re.compile(rf"{TORCHVISION}[a-z][a-z0-9_]*")
NO_BATCHNORM = ("alexnet", "convnext", "squeezenet", "swin", "vgg", "vit")
"""How names of torchvision's networks begin that have none, unless they end in _bn."""


@dataclass(frozen=True)
class NetworkName(OneOf):
    """A name of the table, or torchvision:NAME; whether torchvision has it is known when the
    network is built."""

    def check(self, value: object) -> None:
        """Raises ConfigError, which lists the table."""
        if not (isinstance(value, str) and TORCHVISION_NAME.fullmatch(value)):
            OneOf((*self.table, f"{TORCHVISION}NAME")).check(value)
            if value not in self.table:
                raise ConfigError("", f"NAME is that of a classifier of torchvision, got {value}")


Seed = Annotated[int, at_least(0)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A network. Its first layer is always the normalisation of the data set."""

    name: Annotated[str, NetworkName(NETWORKS)] = "bn-convnet"
    """convnet, bn-convnet, resnet18, or a classifier of torchvision: torchvision:mobilenet_v2, …;
    of those dropout and stochastic depth are off."""
    width: Annotated[int, at_least(1)] = 32
    """Channels of the first block (convnet, bn-convnet)."""
    depth: Annotated[int, at_least(1, at_most=1000)] = 4
    """Convolutions (convnet, bn-convnet)."""
    norm: Literal["instance", "batch", "group", "layer", "none"] = "instance"
    """Normalisation layers of convnet (DC and MTT use instance)."""
    stem: Literal["auto", "32", "64", "224", "tiny-224"] = "auto"
    """First layers of ResNet-18 and torchvision's networks by image side: 224 as published, 32 and
    64 at full resolution (`guard.models.stems`), auto by the images; tiny-224 is GUARD's Tiny
    ImageNet stem of ResNet-18 at 224 px."""
    input: Literal["normalize", "zca"] = "normalize"
    """The fixed first layer: mean and deviation of each channel, or ZCA whitening of the training
    images (as MTT on CIFAR; up to 4096 values an image)."""

    def check(self) -> None:
        """Another network's stem. Raises ConfigError."""
        if self.torchvision_name is not None and self.stem == "tiny-224":
            raise ConfigError("stem", f"tiny-224 is of resnet18, got {self.name}")

    @property
    def torchvision_name(self) -> str | None:
        """Of a classifier of torchvision; None for our own networks."""
        return self.name.removeprefix(TORCHVISION) if self.name.startswith(TORCHVISION) else None

    @property
    def reads_width(self) -> bool:
        return self.name in ("convnet", "bn-convnet")

    @property
    def has_batchnorm(self) -> bool:
        theirs = self.torchvision_name
        if theirs is not None:
            return theirs.endswith("_bn") or not theirs.startswith(NO_BATCHNORM)
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
    compile: bool = field(default=False, metadata=LATER)
    """Have torch compile networks where one derivative is taken: students, teachers and experts
    without a regularizer, attacks. Equal up to rounding (verdicts are computed as without it); off
    where a machine has no compiler. It takes seconds a stage, so it is for long stages."""
