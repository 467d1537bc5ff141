from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.methods.mtt.trajectory import (
    GRADIENTS,
    Gradient,
    StepLoss,
    TrajectoryGradient,
    adjoint,
    call,
    flat_parameters,
    tesla,
    unroll,
)
from guard.models.batchnorm import batchnorms
from guard.models.networks import build_model
from helpers import draws, relative_error

SPEC = ImageSpec(
    channels=3,
    image_size=8,
    num_classes=4,
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
    class_names=tuple("abcd"),
)
LABELS = torch.arange(8) % 4
UNUSED = 7
"""The image that is in no batch."""


@dataclass(frozen=True)
class Problem:
    model: nn.Module
    step_loss: StepLoss
    theta: Tensor
    target: Tensor
    images: Tensor
    rate: Tensor
    steps: int = 6

    def solve(self, gradient: Gradient) -> TrajectoryGradient:
        return gradient(self.step_loss, self.theta, self.target, self.images, self.rate, self.steps)

    @property
    def inputs(self) -> list[Tensor]:
        return [self.theta, self.target, self.images, self.rate]


def batch(number: int) -> Tensor:
    """Three of the images before UNUSED, others at every step."""
    return torch.randperm(UNUSED, generator=draws(number))[:3]


def problem(model: nn.Module, dtype: torch.dtype = torch.float64, steps: int = 6) -> Problem:
    """Steps of a visible size on minibatches; every other one sees its images mirrored."""
    model = model.to(dtype)

    def step_loss(theta: Tensor, images: Tensor, number: int) -> Tensor:
        chosen = batch(number)
        x = images[chosen].flip(3) if number % 2 else images[chosen]
        return F.cross_entropy(call(model, theta, x), LABELS[chosen])

    theta = flat_parameters(model)
    target = theta + 0.05 * torch.randn(theta.shape, generator=draws(1)).to(dtype)
    images = torch.rand(8, 3, 8, 8, generator=draws(2)).to(dtype)
    return Problem(model, step_loss, theta, target, images, torch.tensor(0.1, dtype=dtype), steps)


def convnet(width: int = 8, norm: str = "instance") -> nn.Module:
    config = ModelConfig(name="convnet", width=width, depth=2, norm=norm)
    return build_model(config, SPEC)


def smooth_net() -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Tanh(), nn.Linear(12, 4))
    for seed, parameter in enumerate(layers.parameters()):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=draws(seed))
    return layers


def assert_same(got: TrajectoryGradient, wanted: TrajectoryGradient, tolerance: float) -> None:
    for name in ("loss", "images", "rate"):
        assert relative_error(getattr(got, name), getattr(wanted, name)) < tolerance, name


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


class Held:
    """A tensor that a graph holds for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedMemory:
    """Bytes that graphs hold: now, and at most so far."""

    now = 0
    peak = 0

    def save(self, tensor: Tensor) -> Held:
        held, size = Held(tensor), tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(held, self.release, size)
        return held

    def release(self, size: int) -> None:
        self.now -= size

    def peak_of(self, run: Callable[[], object]) -> int:
        with torch.autograd.graph.saved_tensors_hooks(self.save, lambda held: held.tensor):
            run()
        assert self.now == 0
        return self.peak


def peak_memory(gradient: Gradient, steps: int) -> int:
    given = problem(convnet(), torch.float32, steps)
    return SavedMemory().peak_of(lambda: given.solve(gradient))


@pytest.mark.parametrize("gradient", [adjoint, tesla], ids=["adjoint", "tesla"])
def test_the_sweeps_hold_the_graph_of_one_step(gradient: Gradient) -> None:
    of_one_step = peak_memory(unroll, 1)
    assert peak_memory(gradient, 50) < 1.2 * peak_memory(gradient, 5) < 1.5 * of_one_step


def test_unrolling_holds_the_graphs_of_all_steps() -> None:
    assert peak_memory(unroll, 25) > 4 * peak_memory(unroll, 5)


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_inputs_stay_and_runs_repeat(gradient: Gradient, tracked: bool) -> None:
    given = problem(convnet(norm="batch").train())
    for values in given.inputs:
        values.requires_grad_(tracked)
    state = {name: value.clone() for name, value in given.model.state_dict().items()}
    before, random_state = [values.clone() for values in given.inputs], torch.get_rng_state()
    first, second = given.solve(gradient), given.solve(gradient)
    assert torch.equal(torch.get_rng_state(), random_state)
    for values, old in zip(given.inputs, before, strict=True):
        assert torch.equal(values, old) and values.grad is None
        assert values.requires_grad == tracked
    for name, value in given.model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(parameter.grad is None for parameter in given.model.parameters())
    for name in ("loss", "images", "rate"):
        one, two = getattr(first, name), getattr(second, name)
        assert torch.equal(one, two) and not one.requires_grad


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_have_the_type_of_what_they_are_of(gradient: Gradient) -> None:
    given = problem(convnet(), torch.float32)
    found = replace(given, rate=given.rate.double()).solve(gradient)
    assert found.images.dtype == torch.float32 and found.rate.dtype == torch.float64
    assert found.images.shape == given.images.shape and found.rate.shape == ()


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_a_student_that_starts_at_the_target_is_refused(gradient: Gradient) -> None:
    given = problem(convnet())
    with pytest.raises(ValueError, match="at the target"):
        replace(given, target=given.theta.clone()).solve(gradient)


def test_a_vector_takes_the_place_of_the_parameters() -> None:
    model, x = convnet(), torch.rand(5, 3, 8, 8, generator=draws())
    theta = flat_parameters(model)
    assert torch.equal(theta, nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(call(model, theta, x), model(x))
    other = copy.deepcopy(model)
    nn.utils.vector_to_parameters(theta + 0.1, other.parameters())
    assert torch.equal(call(model, theta + 0.1, x), other(x))
    assert torch.equal(flat_parameters(model), theta)
    theta.requires_grad_()
    (found,) = torch.autograd.grad(call(model, theta, x).logsumexp(1).sum(), theta)
    wanted = torch.autograd.grad(model(x).logsumexp(1).sum(), list(model.parameters()))
    assert torch.equal(found, torch.cat([part.flatten() for part in wanted]))


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_vector_of_another_model_is_refused(surplus: int) -> None:
    model = convnet()
    theta = torch.zeros(len(flat_parameters(model)) + surplus)
    with pytest.raises(RuntimeError, match="split_sizes"):
        call(model, theta, torch.rand(1, 3, 8, 8))


def test_running_statistics_are_read_and_not_written() -> None:
    model, x = convnet(norm="batch"), torch.rand(5, 3, 8, 8, generator=draws())
    batchnorms(model)[0].running_mean.fill_(0.5)
    theta = flat_parameters(model)
    state = copy.deepcopy(model.state_dict())
    assert torch.equal(call(model.eval(), theta, x), model(x))
    in_training = call(model.train(), theta, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(in_training, model(x))
