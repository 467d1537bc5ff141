"""The gradient of the trajectory-matching loss in the synthetic images and the learning rate.

A student takes N steps from an expert's parameters, theta_{i+1} = theta_i − α·g_i with
g_i = ∇_theta loss_i(theta_i, images), and should arrive at the expert's later parameters:

    L = ‖theta_N − target‖² / ‖theta_0 − target‖²

MTT (Cazenavette et al., CVPR 2022, arXiv 2203.11932) and TESLA (Cui et al., ICML 2023,
arXiv 2211.10586). theta: all parameters of the student in one vector, (P,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call

from guard.models.batchnorm import batchnorms

StepLoss = Callable[[Tensor, Tensor, int], Tensor]
"""(theta (P,), images (M, C, H, W), number of the step) -> the student's loss on that step's batch,
a scalar. A pure function: called again with the same arguments it gives the same value."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryGradient:
    """L and its gradient. Nothing here has a graph."""

    loss: Tensor
    """L, a scalar: 1 where the student stayed as far from the target as it started."""
    images: Tensor
    """dL/d images, (M, C, H, W)."""
    rate: Tensor
    """dL/dα, a scalar."""


def flat_parameters(model: nn.Module) -> Tensor:
    """A copy of the model's parameters as one vector, (P,), in the order of `parameters()`."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def call(model: nn.Module, theta: Tensor, x: Tensor) -> Tensor:
    """What the model returns for `x` with theta (P,) as its parameters, differentiable in both.

    The model's own parameters and buffers stay as they are, also in training mode.
    """
    named = dict(model.named_parameters())
    parts = theta.split([parameter.numel() for parameter in named.values()])
    pairs = zip(named.items(), parts, strict=True)
    parameters = {name: part.view_as(parameter) for (name, parameter), part in pairs}
    written = {id(buffer) for bn in batchnorms(model) for buffer in bn.buffers()}
    buffers = {n: buffer.clone() for n, buffer in model.named_buffers() if id(buffer) in written}
    output: Tensor = functional_call(model, {**parameters, **buffers}, (x,))
    return output


def unroll(
    step_loss: StepLoss, theta: Tensor, target: Tensor, images: Tensor, rate: Tensor, steps: int
) -> TrajectoryGradient:
    """The gradient through all steps at once, as in MTT: memory grows with `steps`.

    theta, target: theta_0 and where to arrive, (P,); images: (M, C, H, W); rate: α, a scalar.
    Raises ValueError if theta is the target.
    """
    start = squared_distance(theta, target)
    theta, images, rate = leaf(theta), leaf(images), leaf(rate)
    for number in range(steps):
        (gradient,) = grad(step_loss(theta, images, number), theta, create_graph=True)
        theta = theta - rate * gradient
    loss = (theta - target.detach()).square().sum() / start
    by_images, by_rate = grad(loss, (images, rate), materialize_grads=True)
    return TrajectoryGradient(loss=loss.detach(), images=by_images, rate=by_rate)


def adjoint(
    step_loss: StepLoss, theta: Tensor, target: Tensor, images: Tensor, rate: Tensor, steps: int
) -> TrajectoryGradient:
    """The gradient of `unroll`, with the same arguments, with the graph of one step in memory.

    The student walks once without graphs; going back, a_i = dL/d theta_i follows from a_{i+1} and
    step i alone. Costs a second forward and backward pass of every step.
    """
    return sweep(step_loss, theta, target, images, rate, steps, through_theta=True)


def tesla(
    step_loss: StepLoss,
    theta: Tensor,
    target: Tensor,
    images: Tensor,
    rate: Tensor,
    steps: int,
    *,
    published_half: bool = False,
) -> TrajectoryGradient:
    """TESLA's gradient: as if g_i did not change with theta_i. Arguments as of `unroll`.

    With G = Σ g_i the loss is ‖theta_0 − αG − target‖²/‖theta_0 − target‖², differentiated in the
    images of each g_i alone, and in α with G constant. It is the sweep of `adjoint` with every a_i
    left at a_N. published_half: half the images' gradient, as in the published code
    (github.com/justincui03/tesla, issue 5).
    """
    exact = sweep(step_loss, theta, target, images, rate, steps, through_theta=False)
    return (
        TrajectoryGradient(loss=exact.loss, images=exact.images / 2, rate=exact.rate)
        if published_half
        else exact
    )


Gradient = Callable[[StepLoss, Tensor, Tensor, Tensor, Tensor, int], TrajectoryGradient]
"""(step_loss, theta, target, images, rate, steps), as of `unroll`."""

GRADIENTS: Mapping[str, Gradient] = {"unroll": unroll, "adjoint": adjoint, "tesla": tesla}


def sweep(
    step_loss: StepLoss,
    theta: Tensor,
    target: Tensor,
    images: Tensor,
    rate: Tensor,
    steps: int,
    *,
    through_theta: bool,
) -> TrajectoryGradient:
    """Walk forward, keeping theta_0..theta_N; then go back, from a_N = dL/d theta_N:

    dL/d images += ds/d images; dL/dα −= ⟨a_{i+1}, g_i⟩; a_i = a_{i+1} + ds/d theta_i, where
    s = −α⟨a_{i+1}, g_i⟩. Without `through_theta`, ds/d theta_i is taken to be 0.
    """
    start = squared_distance(theta, target)
    target, images, alpha = target.detach(), images.detach(), rate.detach()
    visited = walk(step_loss, theta.detach(), images, alpha, steps)
    offset = visited.pop() - target
    adjoint_vector = 2 * offset / start
    by_images, by_rate = torch.zeros_like(images), theta.new_zeros(())
    for number in reversed(range(steps)):
        step = pull_back(step_loss, visited.pop(), images, number, adjoint_vector, through_theta)
        by_images -= alpha * step.images
        by_rate -= step.product
        if step.theta is not None:
            adjoint_vector = adjoint_vector - alpha * step.theta
    return TrajectoryGradient(
        loss=offset.square().sum() / start, images=by_images, rate=by_rate.to(rate)
    )


def walk(
    step_loss: StepLoss, theta: Tensor, images: Tensor, rate: Tensor, steps: int
) -> list[Tensor]:
    """theta_0..theta_N, (P,) each, without graphs."""
    visited = [theta]
    for number in range(steps):
        here = leaf(visited[-1])
        (gradient,) = grad(step_loss(here, images, number), here)
        visited.append(visited[-1] - rate * gradient)
    return visited


@dataclass(frozen=True, kw_only=True)
class PulledBack:
    """⟨v, g⟩ of one step, a scalar, and its gradients in images (M, C, H, W) and theta (P,)."""

    product: Tensor
    images: Tensor
    theta: Tensor | None


def pull_back(
    step_loss: StepLoss,
    theta: Tensor,
    images: Tensor,
    number: int,
    vector: Tensor,
    through_theta: bool,
) -> PulledBack:
    """Differentiate ⟨vector, g⟩ of one step, vector and theta (P,), images (M, C, H, W); its graph
    is gone on return."""
    theta, images = leaf(theta), leaf(images)
    (gradient,) = grad(step_loss(theta, images, number), theta, create_graph=True)
    inputs = (images, theta) if through_theta else (images,)
    by_images, *rest = grad(gradient, inputs, vector, materialize_grads=True)
    return PulledBack(
        product=gradient.detach() @ vector, images=by_images, theta=rest[0] if rest else None
    )


def leaf(values: Tensor) -> Tensor:
    """The same values (…), of any shape, to differentiate in, detached from what they came from."""
    return values.detach().requires_grad_()


def squared_distance(theta: Tensor, target: Tensor) -> Tensor:
    """‖theta − target‖², a scalar. Raises ValueError where it is 0: there is no way to go."""
    distance = (theta.detach() - target.detach()).square().sum()
    if distance == 0:
        raise ValueError("trajectory: theta is already at the target")
    return distance
