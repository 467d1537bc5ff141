"""Penalties on the model that a set is distilled from, differentiable in its parameters.

x: (B, C, H, W) in [0, 1]; y: (B,). Gradients g are of each sample's own loss: the inner losses are
summed, never averaged, so a penalty does not depend on the batch that a sample is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier, batchnorm_mode

RELEASED_OFFSET = 1e-7
"""What GUARD's released code adds to every element of the gradient and to its norm."""


@dataclass(frozen=True)
class Regularizer:
    """λ·mean(penalty): call it with a model and a batch inside a training step.

    The model's mode, running statistics and parameters' `.grad` are as before after the call.
    """

    config: RegularizerConfig
    eps: float = 0.0
    """Radius of the threat model in pixels, for units = "eps"."""
    transformed: bool = False
    """Called inside `torch.func.vmap`."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, epoch: int, generator: torch.Generator
    ) -> Tensor:
        """The weighted penalty of a batch, a scalar.

        A random `fraction` of the batch is drawn from `generator`; `epoch` (from 0) sets the
        warm-up of λ and h.
        """
        config = self.config
        if not config.active:
            return x.new_zeros(())
        batch_size, h = len(x), self.step_length(x, epoch)
        with batchnorm_mode(model, config.bn, x):
            if config.fraction < 1:
                count = math.ceil(config.fraction * batch_size)
                chosen = torch.randperm(batch_size, generator=generator)[:count].to(x.device)
                x, y = x[chosen], y[chosen]
            penalty = PENALTIES[config.kind](self, model, x, y, h, batch_size)
        return config.weight * ramp(epoch, config.weight_warmup_epochs) * penalty

    def step_length(self, x: Tensor, epoch: int) -> float:
        """L2 length of the step: in pixels, or in normalised units if `units` says so."""
        scale = self.eps * math.sqrt(x[0].numel()) if self.config.units == "eps" else 1.0
        return self.config.h * scale * ramp(epoch, self.config.h_warmup_epochs)

    def gradient_scale(self, scale: Tensor, batch_size: int) -> Tensor:
        """What turns a pixel gradient of a sample's own loss into the one that is penalised."""
        return scale / batch_size if self.config.scale == "batch-mean" else scale

    def scale(self, model: nn.Module, x: Tensor) -> Tensor:
        """Pixels per unit of the space that steps and gradients are measured in, (1, C, 1, 1)."""
        if self.config.units == "normalized" and isinstance(model, Classifier):
            assert isinstance(model.normalize, Normalize)
            return model.normalize.std.to(x)
        return x.new_ones((1, 1, 1, 1))


def ramp(epoch: int, warmup_epochs: int) -> float:
    return min((epoch + 1) / warmup_epochs, 1.0) if warmup_epochs else 1.0


def sample_losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample, (B,)."""
    return F.cross_entropy(model(x), y, reduction="none")


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, *, differentiable: bool, transformed: bool = False
) -> Tensor:
    """∇ℓ_i(x_i) of each sample's own loss, (B, C, H, W). `transformed`: inside `torch.func.vmap`,
    where autograd's own functions do not work (importing its machinery takes seconds)."""

    def total(x: Tensor) -> Tensor:
        return sample_losses(model, x, y).sum()

    gradient: Tensor
    if transformed:
        with torch.set_grad_enabled(differentiable):
            gradient = torch.func.grad(total)(x.detach())
        return gradient
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(total(x), x, create_graph=differentiable)
    return gradient


def unit(gradient: Tensor) -> Tensor:
    """g/‖g‖ of each sample; 0 where g is 0. Scaled by max|g| first, so squares do not underflow."""
    flat = gradient.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, 1)
    norm = scaled.norm(dim=1, keepdim=True)
    return (scaled / torch.where(norm > 0, norm, 1)).view_as(gradient)


def direction(gradient: Tensor, config: RegularizerConfig) -> Tensor:
    """z of each sample from its (detached) gradient; ‖z‖ = 1, except for "released"."""
    if config.direction == "sign":
        return unit(gradient.sign())
    if config.direction == "released":
        flat = gradient.flatten(1)
        z: Tensor = (flat + RELEASED_OFFSET) / (flat.norm(dim=1, keepdim=True) + RELEASED_OFFSET)
        return z.view_as(gradient)
    return unit(gradient)


def sample_norms(values: Tensor, power: int) -> Tensor:
    """‖v_i‖^power, (B,), with gradient 0 at 0."""
    flat = values.flatten(1)
    return flat.square().sum(dim=1) if power == 2 else flat.norm(dim=1)


def curvature(
    regularizer: Regularizer, model: nn.Module, x: Tensor, y: Tensor, h: float, batch_size: int
) -> Tensor:
    """mean_i ‖∇ℓ_i(x_i + h z_i) − ∇ℓ_i(x_i)‖^power: GUARD Eq. 15 (arXiv 2403.10045) at power 2,
    CURE (arXiv 1811.09716). For small h it is h²‖Hz‖² with the input Hessian H."""
    config, scale = regularizer.config, regularizer.scale(model, x)
    own = regularizer.gradient_scale(scale, batch_size)
    gradient = (
        input_gradient(model, x, y, differentiable=True, transformed=regularizer.transformed) * own
    )
    z = direction(gradient.detach(), config)
    moved = (
        input_gradient(
            model, x + h * scale * z, y, differentiable=True, transformed=regularizer.transformed
        )
        * own
    )
    return sample_norms(moved - gradient, config.power).mean()


def loss_difference(
    regularizer: Regularizer, model: nn.Module, x: Tensor, y: Tensor, h: float, batch_size: int
) -> Tensor:
    """mean_i |ℓ_i(x_i + h z_i) − ℓ_i(x_i)|^power, to first order h‖∇ℓ‖; with scale = "batch-mean"
    the difference of the batch's mean losses, as in GUARD's released ImageNet-type code."""
    config, scale = regularizer.config, regularizer.scale(model, x)
    own = regularizer.gradient_scale(scale, batch_size)
    gradient = (
        input_gradient(model, x, y, differentiable=False, transformed=regularizer.transformed) * own
    )
    moved = x + h * scale * direction(gradient, config)
    difference = sample_losses(model, moved, y) - sample_losses(model, x, y)
    if config.scale == "batch-mean":
        difference = difference.mean(dim=0, keepdim=True)
    return difference.abs().pow(config.power).mean()


def gradient_norm(
    regularizer: Regularizer, model: nn.Module, x: Tensor, y: Tensor, h: float, batch_size: int
) -> Tensor:
    """mean_i ‖∇ℓ_i(x_i)‖^power, differentiable (the released ablation detached it: no gradient)."""
    own = regularizer.gradient_scale(regularizer.scale(model, x), batch_size)
    gradient = (
        input_gradient(model, x, y, differentiable=True, transformed=regularizer.transformed) * own
    )
    return sample_norms(gradient, regularizer.config.power).mean()


Penalty = Callable[[Regularizer, nn.Module, Tensor, Tensor, float, int], Tensor]
"""(regularizer, model, x, y, step length, size of the batch that x was drawn from)."""

PENALTIES: dict[str, Penalty] = {
    "curvature": curvature,
    "loss-difference": loss_difference,
    "gradient-norm": gradient_norm,
}
