"""What the penalties are: their definitions, by hand, one sample after another."""

from __future__ import annotations

import math

import pytest
import torch
from penalised import (
    DEFINED,
    DIM,
    KINDS,
    MEAN,
    SHAPE,
    STD,
    by_hand,
    gradient_of,
    loss_of,
    penalty,
    samples,
    smooth_net,
    step_along,
)
from torch import nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier
from guard.norms import unit
from guard.training.penalties import DIRECTIONS, Regularizer
from helpers import draws, number


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("activation", [nn.Softplus, nn.Tanh])
def test_curvature_of_a_small_step_is_the_hessian_along_the_gradient(
    activation: type[nn.Module], power: int
) -> None:
    model, (x, y), h = smooth_net(activation), samples(), 1e-4
    expected = 0.0
    for image, label in zip(x, y, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda v, label=label: loss_of(model, v.view(SHAPE), label), image.flatten()
        )
        gradient = gradient_of(model, image, label).flatten()
        along = hessian @ gradient / gradient.norm()
        expected += (h * float(along.norm())) ** power / len(x)
    value = number(penalty(model, x, y, h=h, power=power))
    assert value == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("direction", ["gradient", "sign", "released"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("h", [0.05, 3.0])
@pytest.mark.parametrize("kind", DEFINED)
def test_a_penalty_is_what_its_definition_says(
    kind: str, h: float, power: int, direction: str
) -> None:
    model, (x, y) = smooth_net(), samples()
    value = number(penalty(model, x, y, kind=kind, h=h, power=power, direction=direction))
    assert value == pytest.approx(by_hand(model, x, y, kind, h, power, direction), rel=1e-9)


@pytest.mark.parametrize("scale", ["per-sample", "batch-mean"])
def test_a_loss_that_falls_counts_as_one_that_rises(scale: str) -> None:
    """Along the gradient a loss rises at first; on a bent net it has fallen again further out."""
    model = smooth_net(nn.Tanh, seed=1)
    x, y = samples(40)
    h = 30.0
    moved = torch.stack(
        [x[i] + h * step_along(gradient_of(model, x[i], y[i]), "gradient") for i in range(40)]
    )
    losses = [F.cross_entropy(model(v), y, reduction="none").detach() for v in (moved, x)]
    falls = losses[0] < losses[1]
    assert falls.any() and not falls.all()
    x, y, difference = x[falls], y[falls], (losses[1] - losses[0])[falls]
    value = number(penalty(model, x, y, kind="loss-difference", h=h, power=1, scale=scale))
    assert value == pytest.approx(float(difference.mean()), rel=1e-9)


def test_a_loss_difference_is_to_first_order_the_step_times_the_gradient_norm() -> None:
    model, (x, y), h = smooth_net(), samples(), 1e-6
    difference = number(penalty(model, x, y, kind="loss-difference", h=h, power=1))
    norm = number(penalty(model, x, y, kind="gradient-norm", power=1))
    assert difference == pytest.approx(h * norm, rel=1e-4)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", DEFINED)
def test_the_gradient_in_the_parameters_is_the_finite_difference_at_fixed_z(
    kind: str, power: int
) -> None:
    model, (x, y), h, step = smooth_net(), samples(), 0.3, 1e-5
    parameters = list(model.parameters())
    value = penalty(model, x, y, kind=kind, h=h, power=power)
    analytic = torch.nn.utils.parameters_to_vector(
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    )
    moved = [
        image + h * step_along(gradient_of(model, image, label), "gradient")
        for image, label in zip(x, y, strict=True)
    ]
    start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
    for seed in range(4):
        along = torch.randn(len(start), generator=draws(seed), dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(start + sign * step * along, parameters)
            ends.append(by_hand(model, x, y, kind, h, power, moved=moved))
        torch.nn.utils.vector_to_parameters(start, parameters)
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert abs(numeric) > 1e-3
        assert float(analytic @ along) == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_matrix_gets_a_gradient(kind: str) -> None:
    model, (x, y) = smooth_net(), samples()
    value = penalty(model, x, y, kind=kind)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    for gradient in torch.autograd.grad(value, weights):
        assert gradient.abs().max() > 1e-4


def test_descending_the_curvature_flattens_the_loss() -> None:
    model, (x, y) = smooth_net(), samples()
    before = by_hand(model, x, y, "curvature", 0.5, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        penalty(model, x, y, h=0.5).backward()
        optimizer.step()
    assert by_hand(model, x, y, "curvature", 0.5, 2) < 0.7 * before


@pytest.mark.parametrize("direction", ["gradient", "sign", "released"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_counts_as_the_mean_of_its_samples(kind: str, direction: str) -> None:
    model, (x, y) = smooth_net(), samples(6)
    options = {"kind": kind, "h": 0.4, "direction": direction}
    alone = [number(penalty(model, x[i : i + 1], y[i : i + 1], **options)) for i in range(6)]
    assert number(penalty(model, x, y, **options)) == pytest.approx(sum(alone) / 6, rel=1e-12)
    doubled = penalty(model, torch.cat([x, x]), torch.cat([y, y]), **options)
    assert number(doubled) == pytest.approx(sum(alone) / 6, rel=1e-12)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", DEFINED)
def test_batch_mean_takes_the_gradients_of_the_batchs_mean_loss(kind: str, power: int) -> None:
    model, (x, y), h = smooth_net(), samples(), 0.7
    mean_gradient = torch.func.grad(lambda v: F.cross_entropy(model(v), y))
    gradient = mean_gradient(x)
    z = torch.stack([step_along(g, "released") for g in gradient])
    if kind == "curvature":
        vectors = mean_gradient(x + h * z) - gradient
    elif kind == "gradient-norm":
        vectors = gradient
    else:
        vectors = (F.cross_entropy(model(x + h * z), y) - F.cross_entropy(model(x), y))[None]
    expected = vectors.flatten(1) if vectors.ndim > 1 else vectors[:, None]
    expected = expected.square().sum(dim=1).sqrt().pow(power).mean()
    value = penalty(
        model, x, y, kind=kind, h=h, power=power, direction="released", scale="batch-mean"
    )
    assert number(value) == pytest.approx(number(expected), rel=1e-9)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", ["curvature", "gradient-norm"])
def test_batch_mean_divides_gradients_by_the_batch_size(kind: str, power: int) -> None:
    model, (x, y) = smooth_net(), samples(5)
    options = {"kind": kind, "h": 0.7, "power": power}
    ratio = penalty(model, x, y, **options) / penalty(model, x, y, scale="batch-mean", **options)
    assert number(ratio) == pytest.approx(5**power, rel=1e-9)


def classifier() -> Classifier:
    return Classifier(Normalize(MEAN, STD), smooth_net()).double()


@pytest.mark.parametrize("kind", DEFINED)
def test_normalized_units_are_pixels_of_the_normalised_space(kind: str) -> None:
    model, (x, y), h = classifier(), samples(), 0.7
    normalised = (x - model.normalize.mean) / model.normalize.std
    expected = by_hand(model.network, normalised, y, kind, h, 2)
    value = number(penalty(model, x, y, kind=kind, h=h, units="normalized"))
    assert value == pytest.approx(expected, rel=1e-9)
    in_pixels = number(penalty(model, x, y, kind=kind, h=h))
    assert in_pixels == pytest.approx(by_hand(model, x, y, kind, h, 2), rel=1e-9)
    assert abs(in_pixels - value) > 0.1 * value


@pytest.mark.parametrize("kind", ["curvature", "loss-difference"])
def test_eps_units_are_multiples_of_the_longest_step_inside_the_ball(kind: str) -> None:
    model, (x, y), eps, h = classifier(), samples(), 0.1, 1.5
    in_eps = penalty(model, x, y, kind=kind, h=h, units="eps", eps=eps)
    in_pixels = penalty(model, x, y, kind=kind, h=h * eps * math.sqrt(DIM))
    assert number(in_eps) == pytest.approx(number(in_pixels), rel=1e-12)
    corner = torch.full(SHAPE, eps, dtype=torch.float64)
    config = RegularizerConfig(h=1, units="eps")
    assert Regularizer(config, eps).step_length(x, 0) == pytest.approx(float(corner.norm()))


def saturated_net() -> nn.Sequential:
    """Class 0 is so sure that the float64 loss and its gradient are exactly 0."""
    model = smooth_net()
    model[3].bias.data = torch.tensor([1e4, 0, 0, 0], dtype=torch.float64)
    return model


@pytest.mark.parametrize("scale", ["per-sample", "batch-mean"])
@pytest.mark.parametrize("direction", ["gradient", "sign", "released"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", DEFINED)
def test_a_vanishing_gradient_gives_zero_with_finite_derivatives(
    kind: str, power: int, direction: str, scale: str
) -> None:
    model, (x, _) = saturated_net(), samples()
    y = torch.zeros(len(x), dtype=torch.long)
    assert all(gradient_of(model, x[i], y[i]).abs().max() == 0 for i in range(len(x)))
    value = penalty(model, x, y, kind=kind, power=power, direction=direction, scale=scale)
    gradients = torch.autograd.grad(
        value, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    assert number(value) == 0
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("direction", ["gradient", "sign"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", DEFINED)
def test_a_vanishing_gradient_leaves_the_other_samples_alone(
    kind: str, power: int, direction: str
) -> None:
    model, (x, _) = saturated_net(), samples(2)
    options = {"kind": kind, "power": power, "direction": direction}
    both = penalty(model, x, torch.tensor([0, 1]), **options)
    alone = penalty(model, x[1:], torch.tensor([1]), **options)
    parameters = [model[1].weight, model[3].weight]
    pairs = zip(
        torch.autograd.grad(both, parameters), torch.autograd.grad(alone, parameters), strict=True
    )
    assert number(both) == pytest.approx(number(alone) / 2, rel=1e-12)
    for of_both, of_alone in pairs:
        torch.testing.assert_close(of_both, of_alone / 2)


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e-30, 1e30])
def test_a_unit_vector_has_norm_one_however_small_the_gradient(size: float) -> None:
    gradient = torch.randn(3, *SHAPE, generator=draws())
    z = unit(gradient * size).flatten(1)
    torch.testing.assert_close(z.double().norm(dim=1), torch.ones(3).double(), rtol=1e-5, atol=0)
    cosine = F.cosine_similarity(z, gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3), rtol=1e-4, atol=0)


def test_a_zero_vector_stays_zero() -> None:
    gradient = torch.randn(2, *SHAPE, generator=draws())
    gradient[0] = 0
    z = unit(gradient)
    assert z[0].abs().max() == 0
    assert float(z[1].norm()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", ["gradient", "sign", "released"])
def test_directions(name: str) -> None:
    gradient = torch.randn(4, *SHAPE, generator=draws(), dtype=torch.float64) * 1e-6
    gradient[0, 0, 0, 0] = 0
    z = DIRECTIONS[name](gradient)
    expected = torch.stack([step_along(g, name) for g in gradient])
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=0)
    norms = z.flatten(1).norm(dim=1)
    assert bool((norms - 1).abs().max() < 1e-12) is (name != "released")
