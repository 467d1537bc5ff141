"""Penalties on the model that a set is distilled from, differentiable in its parameters.

x: (B, C, H, W) in [0, 1]; y: (B,). Gradients are of each sample's own loss: the inner losses are
summed, never averaged, so a penalty does not depend on the batch that a sample is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.config.regularizers import risen
from guard.group import ALONE, Group, Share
from guard.models.batchnorm import Statistics, batchnorms
from guard.models.input_layer import Normalize
from guard.models.modes import (
    constant_statistics,
    own_statistics,
    recorded_statistics,
    statistics_of,
)
from guard.models.networks import Classifier
from guard.models.precision import in_float32, is_lowered
from guard.models.synchronized import normalised_as
from guard.norms import norms, unit
from guard.training.pieces import in_pieces
from guard.training.released import released_direction


@dataclass(frozen=True, kw_only=True)
class PlainPass:
    """The forward pass of a batch that its plain loss takes, for what a penalty finds in it."""

    x: Tensor
    """(B, C, H, W); a leaf of the graph where a penalty goes on from it."""
    logits: Tensor
    """(B, K)."""
    statistics: Statistics | None
    """Of the batch, where a penalty needs them."""


@dataclass(frozen=True, kw_only=True)
class SampleLosses:
    """ℓ_i, the cross-entropy of each sample of a batch, and the space it is differentiated in."""

    model: nn.Module
    y: Tensor
    """Labels (B,)."""
    pixels: Tensor
    """Pixels per unit of that space, (1, C, 1, 1)."""
    mean_over: int
    """1; or B where gradients are those of the batch's mean loss (GUARD's released code)."""
    transformed: bool
    """Called inside `torch.func.vmap`, where autograd's own functions do not work (importing its
    machinery takes seconds)."""
    share: Share
    """Of the images of the penalty, that x is."""
    plain: PlainPass | None = None
    """A pass whose graph is that of the losses at its x."""

    def __call__(self, x: Tensor) -> Tensor:
        """ℓ_i(x_i), (B,)."""
        if self.plain is None or x is not self.plain.x:
            return sample_losses(self.model(x), self.y)
        return sample_losses(self.plain.logits, self.y)

    def gradient(self, x: Tensor, *, differentiable: bool = True) -> Tensor:
        """∇ℓ_i(x_i), (B, C, H, W)."""

        def total(x: Tensor) -> Tensor:
            return self(x).sum()

        gradient: Tensor
        if self.transformed:
            with torch.set_grad_enabled(differentiable):
                gradient = torch.func.grad(total)(x.detach())
        else:
            known = self.plain is not None and x is self.plain.x
            x = x if known else x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(
                total(x), x, create_graph=differentiable, retain_graph=differentiable or known
            )
        return gradient * (self.pixels / self.mean_over)

    def moved(self, x: Tensor, z: Tensor, h: float) -> Tensor:
        """x + h·z, (B, C, H, W)."""
        return x + h * self.pixels * z


def sample_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample, (B,), from logits (B, K)."""
    return F.cross_entropy(logits, y, reduction="none")


def curvature(losses: SampleLosses, x: Tensor, h: float, config: RegularizerConfig) -> Tensor:
    """mean_i ‖∇ℓ_i(x_i + h z_i) − ∇ℓ_i(x_i)‖^power: GUARD Eq. 15 (arXiv 2403.10045) at power 2,
    CURE (arXiv 1811.09716). For small h it is h²‖Hz‖² with the input Hessian H."""
    gradient = losses.gradient(x)
    z = DIRECTIONS[config.direction](gradient.detach())
    change = losses.gradient(losses.moved(x, z, h)) - gradient
    return norms(change, config.power).mean()


def loss_difference(losses: SampleLosses, x: Tensor, h: float, config: RegularizerConfig) -> Tensor:
    """mean_i |ℓ_i(x_i + h z_i) − ℓ_i(x_i)|^power, to first order h‖∇ℓ‖; with scale = "batch-mean"
    the difference of the batch's mean losses, as in GUARD's released ImageNet-type code."""
    z = DIRECTIONS[config.direction](losses.gradient(x, differentiable=False))
    difference = losses(losses.moved(x, z, h)) - losses(x)
    if config.scale == "batch-mean":
        difference = losses.share.mean(difference)
    return difference.abs().pow(config.power).mean()


def gradient_norm(losses: SampleLosses, x: Tensor, h: float, config: RegularizerConfig) -> Tensor:
    """mean_i ‖∇ℓ_i(x_i)‖^power, differentiable (the released ablation detached it: no gradient)."""
    return norms(losses.gradient(x), config.power).mean()


DIRECTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gradient": unit,
    "sign": lambda gradient: unit(gradient.sign()),
    "released": released_direction,
}
"""z of each sample from its detached gradient (B, C, H, W); ‖z‖ = 1, except for "released"."""

Penalty = Callable[[SampleLosses, Tensor, float, RegularizerConfig], Tensor]
"""(losses of a batch, its images x, step length h, config) -> a scalar."""

PENALTIES: Mapping[str, Penalty] = {
    "curvature": curvature,
    "loss-difference": loss_difference,
    "gradient-norm": gradient_norm,
}


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
    pieces: int = 1
    """Of a batch, computed one after another: less memory, and the same where `splits`."""
    group: Group = ALONE
    """Who computes it together: each gets the whole batch and gives the summand of its share."""

    @property
    def active(self) -> bool:
        return self.config.active and not self.config.attacks

    def splits(self, *, has_batchnorm: bool) -> bool:
        """Whether it is a mean over samples that do not see one another."""
        together = self.config.kind == "loss-difference" and self.config.scale == "batch-mean"
        coupled = self.config.bn == "train" and has_batchnorm
        return self.active and not together and not coupled

    def plain_pass(self, model: nn.Module, x: Tensor) -> PlainPass:
        """Of images x (B, C, H, W)."""
        if self._goes_on_from(model):
            x = x.detach().requires_grad_()
        recorded = model.training and not is_lowered(model)
        if not (self.active and self.config.bn == "frozen-batch" and recorded):
            return PlainPass(x=x, logits=model(x), statistics=None)
        with recorded_statistics(model) as statistics:
            return PlainPass(x=x, logits=model(x), statistics=statistics)

    def _goes_on_from(self, model: nn.Module) -> bool:
        """Whether the penalty's losses are those of the plain loss: of the same images, through
        the same statistics."""
        if self.transformed or self.pieces > 1 or is_lowered(model):
            return False
        whole = self.active and self.config.fraction == 1
        same_mode = model.training and self.config.bn == "train"
        return whole and (same_mode or not batchnorms(model))

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        epoch: int,
        generator: torch.Generator,
        plain: PlainPass | None = None,
    ) -> Tensor:
        """The weighted penalty of a batch, a scalar.

        A random `fraction` of the batch is drawn from `generator`, and divided among the group;
        `epoch` (from 0) sets the warm-up of λ and h. plain: the pass that has been taken of the
        share of x, if one was.
        """
        config = self.config
        if not config.active:
            return x.new_zeros(())
        batch_size, h = len(x), self.step_length(x, epoch)
        share = self.group.share(batch_size)
        going_on = plain if self._goes_on_from(model) else None
        known = None if plain is None else plain.statistics
        with in_float32(model):
            if config.bn == "frozen-batch" and known is None:
                with normalised_as(model, share):
                    known = statistics_of(model, x[share.rows])
            if config.fraction < 1:
                count = math.ceil(config.fraction * batch_size)
                share = self.group.share(count)
                drawn = torch.randperm(batch_size, generator=generator)[:count][share.rows]
                chosen = drawn.to(x.device)
                x, y = x[chosen], y[chosen]
            else:
                x = x[share.rows] if going_on is None else going_on.x
                y = y[share.rows]

            def penalty(x: Tensor, y: Tensor) -> Tensor:
                losses = SampleLosses(
                    model=model,
                    y=y,
                    pixels=self.pixels(model, x),
                    mean_over=batch_size if config.scale == "batch-mean" else 1,
                    transformed=self.transformed,
                    share=share,
                    plain=going_on,
                )
                with normalised_as(model, share), self._statistics(model, known):
                    return PENALTIES[config.kind](losses, x, h, config)

            if self.pieces == 1:
                value = penalty(x, y)
            else:
                parameters = [p for p in model.parameters() if p.requires_grad]
                value = in_pieces(penalty, parameters, x, y, self.pieces)
        weight = config.weight * risen(epoch, config.weight_warmup_epochs)
        return weight * (share.weight * value)

    def _statistics(
        self, model: nn.Module, known: Statistics | None
    ) -> AbstractContextManager[None]:
        """The model with the statistics that `bn` names; known: of the batch."""
        if self.config.bn == "train":
            return own_statistics(model)
        return constant_statistics(model, known)

    def step_length(self, x: Tensor, epoch: int) -> float:
        """L2 length of the step for images x (B, C, H, W): in pixels, or in normalised units if
        `units` says so."""
        scale = self.eps * math.sqrt(x[0].numel()) if self.config.units == "eps" else 1.0
        return self.config.h_at(epoch) * scale

    def pixels(self, model: nn.Module, x: Tensor) -> Tensor:
        """Pixels per unit of the space that steps and gradients are measured in, (1, C, 1, 1)."""
        if self.config.units == "normalized" and isinstance(model, Classifier):
            assert isinstance(model.normalize, Normalize)
            return model.normalize.std.to(x)
        return x.new_ones((1, 1, 1, 1))
