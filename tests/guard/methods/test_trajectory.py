"""A trajectory's gradients: unrolled, by the adjoint, and as TESLA has it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unrolled import LABELS, UNUSED, Problem, assert_same, batch, convnet, problem

from guard.methods.mtt.trajectory import (
    GRADIENTS,
    Gradient,
    TrajectoryGradient,
    adjoint,
    flat_parameters,
    tesla,
    unroll,
)
from helpers import draws, relative_error


def smooth_net() -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Tanh(), nn.Linear(12, 4))
    for seed, parameter in enumerate(layers.parameters()):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=draws(seed))
    return layers


def loss_of_a_student(given: Problem) -> float:
    """L from a module that SGD trains, one step after another."""
    student = copy.deepcopy(given.model)
    optimizer = torch.optim.SGD(student.parameters(), float(given.rate))
    for number in range(given.steps):
        chosen = batch(number)
        x = given.images[chosen].flip(3) if number % 2 else given.images[chosen]
        optimizer.zero_grad()
        F.cross_entropy(student(x), LABELS[chosen]).backward()
        optimizer.step()
    end = flat_parameters(student) - given.target
    return float(end.square().sum() / (given.theta - given.target).square().sum())


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_adjoint_is_the_unrolled_gradient(
    dtype: torch.dtype, tolerance: float, steps: int
) -> None:
    given = problem(convnet(), dtype, steps)
    assert_same(given.solve(adjoint), given.solve(unroll), tolerance)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_the_adjoint_is_the_unrolled_gradient_with_every_norm(norm: str) -> None:
    given = problem(convnet(norm=norm).train())
    assert_same(given.solve(adjoint), given.solve(unroll), 1e-10)


def test_the_unrolled_gradient_is_that_of_finite_differences() -> None:
    given, h = problem(smooth_net()), 1e-5
    found = given.solve(unroll)
    for index in [(0, 0, 0, 0), (1, 2, 3, 4), (4, 1, 7, 7), (6, 0, 5, 2)]:
        shift = torch.zeros_like(given.images)
        shift[index] = h
        ahead = loss_of_a_student(replace(given, images=given.images + shift))
        behind = loss_of_a_student(replace(given, images=given.images - shift))
        assert float(found.images[index]) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)
    ahead = loss_of_a_student(replace(given, rate=given.rate + h))
    behind = loss_of_a_student(replace(given, rate=given.rate - h))
    assert float(found.rate) == pytest.approx((ahead - behind) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_the_loss_is_that_of_a_student_trained_with_sgd(gradient: Gradient) -> None:
    given = problem(convnet())
    wanted = loss_of_a_student(given)
    assert float(given.solve(gradient).loss) == pytest.approx(wanted, rel=1e-10)
    assert abs(wanted - 1) > 0.01, "the student moved"


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_images_in_no_batch_have_no_gradient(gradient: Gradient) -> None:
    found = problem(convnet()).solve(gradient).images
    assert not found[UNUSED].any()
    assert all(found[index].any() for index in batch(0))


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_steps_may_use_no_image(gradient: Gradient) -> None:
    given = problem(convnet())

    def decay(theta: Tensor, images: Tensor, number: int) -> Tensor:
        return theta.square().sum() / 2

    found = replace(given, step_loss=decay, steps=2).solve(gradient)
    assert found.images.shape == given.images.shape and not found.images.any()

    def every_other(theta: Tensor, images: Tensor, number: int) -> Tensor:
        return (given.step_loss if number % 2 else decay)(theta, images, number)

    mixed = replace(given, step_loss=every_other)
    assert mixed.solve(gradient).images.any()
    assert_same(mixed.solve(adjoint), mixed.solve(unroll), 1e-10)


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_without_steps_the_student_stays(gradient: Gradient) -> None:
    found = problem(convnet(), steps=0).solve(gradient)
    assert float(found.loss) == 1 and not found.images.any() and not found.rate.any()


def tesla_by_hand(given: Problem) -> TrajectoryGradient:
    """‖theta_0 − αG − target‖²/‖theta_0 − target‖² by autograd, the theta_i detached in G."""
    images, rate = given.images.clone().requires_grad_(), given.rate.clone().requires_grad_()
    theta, total = given.theta, torch.zeros_like(given.theta)
    for number in range(given.steps):
        theta = theta.detach().requires_grad_()
        loss = given.step_loss(theta, images, number)
        (g,) = torch.autograd.grad(loss, theta, create_graph=True)
        total, theta = total + g, theta - given.rate * g

    def distance(rate: Tensor, total: Tensor) -> Tensor:
        start = (given.theta - given.target).square().sum()
        return (given.theta - rate * total - given.target).square().sum() / start

    (by_rate,) = torch.autograd.grad(distance(rate, total.detach()), rate)
    loss = distance(given.rate, total)
    (by_images,) = torch.autograd.grad(loss, images)
    return TrajectoryGradient(loss=loss.detach(), images=by_images, rate=by_rate)


def test_tesla_is_its_formula_and_not_the_exact_gradient() -> None:
    given = problem(convnet())
    found, exact = given.solve(tesla), given.solve(unroll)
    assert_same(found, tesla_by_hand(given), 1e-10)
    assert relative_error(found.images, exact.images) > 1e-3
    assert relative_error(found.rate, exact.rate) > 1e-3


def test_tesla_is_exact_for_one_step() -> None:
    given = problem(convnet(), steps=1)
    assert_same(given.solve(tesla), given.solve(unroll), 1e-10)


def test_the_published_tesla_has_half_the_gradient_of_the_images() -> None:
    given = problem(convnet())
    half = tesla(given.step_loss, *given.inputs, given.steps, published_half=True)
    whole = given.solve(tesla)
    assert torch.equal(2 * half.images, whole.images) and whole.images.any()
    assert torch.equal(half.rate, whole.rate) and torch.equal(half.loss, whole.loss)
