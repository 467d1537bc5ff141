"""How far a batch is from the statistics that a network has seen, at the input of its BatchNorms.

z: (N, C, H, W), what a BatchNorm gets; μ, σ² (C,) its mean and variance.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.models.batchnorm import affine, batchnorms


class BatchNormLoss:
    """Σ_l w_l(‖μ_l − running μ_l‖ + ‖σ²_l − running σ²_l‖) over the BatchNorm layers l of a network
    in evaluation mode; or the weighted mean over the layers, each norm divided by the root of the
    number of its channels.

    While the block is open, a forward pass adds its terms, and `take` returns and resets the sum.
    Differentiable in the network's input, once. The first layer in module order counts
    `first_multiplier` times.
    """

    def __init__(
        self,
        model: nn.Module,
        first_multiplier: float,
        scale: Literal["sum", "mean"] = "sum",
    ) -> None:
        self.layers = batchnorms(model)
        self.weights = [first_multiplier] + [1.0] * (len(self.layers) - 1)
        if scale == "mean":
            total = sum(self.weights) or 1.0
            self.weights = [
                weight / total / math.sqrt(layer.num_features)
                for weight, layer in zip(self.weights, self.layers, strict=True)
            ]
        self.terms: list[Tensor] = []

    def __enter__(self) -> BatchNormLoss:
        for number, layer in enumerate(self.layers):
            layer.__dict__["forward"] = self.forward_of(number)
        return self

    def __exit__(self, *error: object) -> None:
        for layer in self.layers:
            del layer.__dict__["forward"]

    def forward_of(self, number: int) -> Any:
        """What a layer does inside the block."""
        layer, weight = self.layers[number], self.weights[number]
        scale, shift = (in_channels(values.detach()) for values in affine(layer))

        def normalised(z: Tensor) -> Tensor:
            y, distance = _Normalised.apply(
                z.float() if z.dtype is torch.bfloat16 else z,
                scale,
                shift,
                layer.running_mean,
                layer.running_var,
            )
            self.terms.append(weight * distance)
            result: Tensor = y
            return result

        return normalised

    def take(self) -> Tensor:
        """The sum of the terms since the last call, a scalar."""
        total = torch.stack(self.terms).sum()
        self.terms.clear()
        return total


def in_channels(values: Tensor) -> Tensor:
    """(C,) as (1, C, 1, 1)."""
    return values[:, None, None]


class _Normalised(torch.autograd.Function):
    """z ↦ (scale·z + shift, ‖μ − mean‖ + ‖σ² − variance‖). As one function both gradients are one
    affine map of z and of the incoming gradient, instead of a map for each of five operations."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        own_variance, own_mean = torch.var_mean(z, dim=(0, 2, 3), correction=0)
        from_mean, from_variance = own_mean - mean, own_variance - variance
        ctx.save_for_backward(z, scale, own_mean, from_mean, from_variance)
        return torch.addcmul(shift, z, scale), from_mean.norm() + from_variance.norm()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, scale, own_mean, from_mean, from_variance = ctx.saved_tensors
        of_y, of_distance = gradients
        share = of_distance / (z.numel() / len(own_mean))
        slope = 2 * share * F.normalize(from_variance, dim=0)
        level = share * F.normalize(from_mean, dim=0) - slope * own_mean
        of_z = torch.addcmul(in_channels(level), z, in_channels(slope))
        return of_z.addcmul_(of_y, scale), None, None, None, None
