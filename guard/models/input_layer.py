"""The fixed first layer of every model: pixels in [0, 1] to the space that a network sees.

Because it is a part of the model, every eps and every attack is in pixels. Methods that optimise
images do so behind this layer, in `u`, and keep the image itself in [0, 1] by `project`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.config import ModelConfig
from guard.data.datasets import load_data
from guard.data.images import ImageSet
from guard.data.spec import ImageSpec
from guard.device import setup
from guard.stages import Whitening

ZCA_EPS = 0.1
ZCA_MAX_VALUES = 4096


class Normalize(nn.Module):
    """(x − mean) / std per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """u (B, C, H, W) of pixels x (B, C, H, W) in [0, 1]."""
        return (x - self.mean) / self.std

    def inverse(self, u: Tensor) -> Tensor:
        """The image (B, C, H, W) of u (B, C, H, W)."""
        return u * self.std + self.mean

    def project(self, u: Tensor) -> Tensor:
        """The nearest u (B, C, H, W) whose image is in [0, 1]."""
        return torch.clamp(u, (0 - self.mean) / self.std, (1 - self.mean) / self.std)


class Zca(nn.Module):
    """W(x − mean) with W = U(S + 0.1)^(−1/2)Uᵀ of the training pixels' covariance U S Uᵀ."""

    mean: Tensor
    weight: Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(spec.num_values))
        self.register_buffer("weight", torch.eye(spec.num_values))
        self._solved: tuple[Tensor, int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """u (B, C, H, W) of pixels x (B, C, H, W) in [0, 1]."""
        return ((x.flatten(1) - self.mean) @ self.weight).view_as(x)

    def inverse(self, u: Tensor) -> Tensor:
        """The image (B, C, H, W) of u (B, C, H, W)."""
        return (u.flatten(1) @ self._inverted() + self.mean).view_as(u)

    def _inverted(self) -> Tensor:
        """W⁻¹, computed once for a W."""
        weight = self.weight
        solved = self._solved
        if solved is None or solved[0] is not weight or solved[1] != weight._version:
            solved = self._solved = (weight, weight._version, torch.linalg.inv(weight))
        return solved[2]

    def project(self, u: Tensor) -> Tensor:
        """The u (B, C, H, W) of the image clamped to [0, 1]."""
        projected: Tensor = self(self.inverse(u).clamp(0, 1))
        return projected


InputLayer = Normalize | Zca


def input_layer(config: ModelConfig, spec: ImageSpec) -> InputLayer:
    """The first layer that `config` names; a ZCA that is not fitted yet changes nothing. Raises
    ValueError if the images are too large for ZCA."""
    if config.input == "normalize":
        return Normalize(spec.mean, spec.std)
    if spec.num_values > ZCA_MAX_VALUES:
        raise ValueError(
            f"model.input: zca takes images of up to {ZCA_MAX_VALUES} values, "
            f"these have {spec.num_values}"
        )
    return Zca(spec)


def fit_zca(images: ImageSet, spec: ImageSpec, device: torch.device) -> dict[str, Tensor]:
    """Mean (D,) and whitening matrix (D, D) of the images' pixels in [0, 1]."""
    total = torch.zeros(spec.num_values, dtype=torch.float64)
    products = torch.zeros(spec.num_values, spec.num_values, dtype=torch.float64)
    for x, _ in images.batches(1000, device):
        flat = x.flatten(1).cpu().double()
        total += flat.sum(dim=0)
        products += flat.T @ flat
    mean = total / len(images)
    covariance = (products - len(images) * torch.outer(mean, mean)) / (len(images) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    weight = (vectors / (values.clamp(min=0) + ZCA_EPS).sqrt()) @ vectors.T
    return {"mean": mean.float(), "weight": weight.float().contiguous()}


def fit_whitening(stage: Whitening, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Fit ZCA on the training images."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    save_file(fit_zca(splits.train, splits.spec, device), folder / "whitening.safetensors")
    return {"metrics": {}}


def first_layer(fitted: Whitening | None, spec: ImageSpec, store: ArtifactStore) -> InputLayer:
    """The first layer of networks with this whitening, or without one."""
    layer = Normalize(spec.mean, spec.std) if fitted is None else Zca(spec)
    load_whitening(layer, fitted, store)
    return layer


def load_whitening(layer: InputLayer, fitted: Whitening | None, store: ArtifactStore) -> None:
    """Give the first layer what was fitted, if anything was."""
    if fitted is not None:
        layer.load_state_dict(load_file(store.read(fitted).path / "whitening.safetensors"))
