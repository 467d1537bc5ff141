"""Sections that every trial has: data, network, evaluation, machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from guard.errors import ConfigError
from guard.schema import Config, above, at_least

DatasetName = Literal[
    "digits",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "imagenette",
    "tiny-imagenet",
    "imagenet",
    "folder",
    "npz",
]
Seed = Annotated[int, at_least(0)]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images, and how they are split."""

    name: DatasetName = "digits"
    path: str = ""
    """A folder or an .npz file; empty: scikit-learn's or torchvision's own copy."""
    image_size: Annotated[int, at_least(0)] = 0
    """Side in pixels that images are resized to; 0: as the data set has them."""
    validation_fraction: Annotated[float, above(0, at_most=0.9)] = 0.1
    """Share of each class's training images that the search selects on."""
    split_seed: Seed = 0
    max_tensor_gib: Annotated[float, at_least(0)] = 1.2
    """Sets up to this size live as tensors on the device; larger ones stream from disk."""
    sha256: str = ""
    """Content of the data, filled in when a study starts; a stage refuses other content."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """A network. Its first layer is always the normalisation of the data set."""

    name: Literal["convnet", "bn-convnet", "resnet18"] = "bn-convnet"
    width: Annotated[int, at_least(1)] = 32
    """Channels of the first block (convnet, bn-convnet)."""
    depth: Annotated[int, at_least(1)] = 4
    """Convolutions (convnet, bn-convnet)."""
    norm: Literal["instance", "batch", "group", "layer", "none"] = "instance"
    """Normalisation layers of convnet (DC and MTT use instance)."""
    stem: Literal["auto", "32", "64", "224", "tiny-224"] = "auto"
    """ResNet-18's first layers by image side; tiny-224 is GUARD's Tiny ImageNet stem at 224 px."""
    input: Literal["normalize", "zca"] = "normalize"
    """The fixed first layer: mean and deviation of each channel, or ZCA whitening of the training
    images (as MTT on CIFAR; up to 4096 values an image)."""

    @property
    def has_batchnorm(self) -> bool:
        return self.name != "convnet" or self.norm == "batch"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """The threat model (L_inf, pixels in [0, 1]) and the attacks of the suite."""

    eps: Annotated[float, at_least(0, at_most=1)] = 1 / 255
    """Radius of the L_inf ball, in pixels."""
    attacks: tuple[str, ...] = ("pgd20",)
    """pgd<k>, mim, cw (L2, not bounded by eps), square, autoattack."""
    seed: Seed = 0
    batch_size: Annotated[int, at_least(1)] = 500
    max_samples: Annotated[int, at_least(1)] | None = None
    """Evaluate on so many images, drawn by `seed`; None: on all."""

    def check(self) -> None:
        for position, attack in enumerate(self.attacks):
            if not is_attack(attack):
                raise ConfigError(
                    f"attacks[{position}]",
                    f"no attack is named {attack!r}; there are: pgd<steps>, {', '.join(ATTACKS)}",
                )
        if not self.attacks:
            raise ConfigError("attacks", "must name at least one attack")
        if len(set(self.attacks)) < len(self.attacks):
            raise ConfigError("attacks", f"must be distinct, got {', '.join(self.attacks)}")


ATTACKS = ("mim", "cw", "square", "autoattack")


def is_attack(name: str) -> bool:
    steps = name.removeprefix("pgd")
    return name in ATTACKS or (
        name.startswith("pgd") and steps.isascii() and steps.isdigit() and int(steps) > 0
    )


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(Config):
    """Where stages run. Part of a trial: float sums depend on the device and on the threads."""

    device: Literal["cpu", "cuda", "mps"] = "cpu"
    num_threads: Annotated[int, at_least(1)] = 1
    """CPU threads of one stage."""
    tf32: bool = False
    """Let CUDA matrix products and convolutions round to TF32."""
