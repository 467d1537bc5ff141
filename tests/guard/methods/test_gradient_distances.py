"""How far apart the gradients of classes are, and where that leads the images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from class_gradients import GROUP, PLAIN, by_backward, convnet, images, of_real
from torch import Tensor, nn
from torch.nn import functional as F

from guard.methods.dc.gradients import ClassGradients, Gradients, cosine, distance, relative_change
from helpers import draws

SHAPES = ((5, 3, 2, 2), (5,), (4, 6), (4,), (2, 3, 4))
KINDS = ("layerwise", "cosine", "squared")


def smooth_net() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 4)).double()
    for seed, parameter in enumerate(model.parameters()):
        values = torch.randn(parameter.shape, generator=draws(seed), dtype=torch.float64)
        parameter.data = 0.3 * values
    return model


def random_gradients(seed: int) -> Gradients:
    own = draws(seed)
    return [torch.randn(2, *shape, generator=own).double() for shape in SHAPES]


def distance_by_hand(kind: str, ours: list[Tensor], target: list[Tensor]) -> float:
    """The distance of one class, by loops over tensors and output units."""
    if kind != "layerwise":
        a, b = (np.concatenate([t.numpy().ravel() for t in side]) for side in (ours, target))
        if kind == "squared":
            return float(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
        return 1 - a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b) + 1e-6)
    total = 0.0
    for one, other in zip(ours, target, strict=True):
        if one.ndim == 1:
            continue
        for unit in range(len(one)):
            a, b = one[unit].numpy().ravel(), other[unit].numpy().ravel()
            total += 1 - a @ b / (math.sqrt(a @ a) * math.sqrt(b @ b) + 1e-6)
    return total


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_distance_is_what_its_definition_says(kind: str, scale: float) -> None:
    ours, target = ([scale * t for t in random_gradients(seed)] for seed in (1, 2))
    found = distance(kind, ours, target)
    expected = [
        distance_by_hand(kind, [t[c] for t in ours], [t[c] for t in target]) for c in (0, 1)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distance_to_oneself_is_zero(kind: str) -> None:
    ours = random_gradients(1)
    assert float(distance(kind, ours, ours).abs().max()) < 1e-4


def test_the_layerwise_distance_is_of_weights_and_not_of_their_lengths() -> None:
    ours, target = random_gradients(1), random_gradients(2)
    value = distance("layerwise", ours, target)
    vectors = [-t if t.ndim == 2 else t for t in ours]
    assert torch.equal(distance("layerwise", vectors, target), value)
    stretched = [t * torch.arange(1, t.shape[1] + 1).view(-1, *[1] * (t.ndim - 2)) for t in ours]
    torch.testing.assert_close(distance("layerwise", stretched, target), value, rtol=1e-5, atol=0)
    units = sum(shape[0] for shape in SHAPES if len(shape) > 1)
    opposite = distance("layerwise", [-t for t in target], target)
    torch.testing.assert_close(opposite, torch.full((2,), 2.0 * units).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distance_has_finite_derivatives_where_a_unit_has_no_gradient(kind: str) -> None:
    ours, target = random_gradients(1), random_gradients(2)
    for tensor in (ours[0], target[0], ours[2]):
        tensor[:, 1] = 0
    leaves = [tensor.requires_grad_() for tensor in ours]
    value = distance(kind, leaves, target).sum()
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    assert value.isfinite() and all(gradient.isfinite().all() for gradient in found)
    assert found[2][:, 0].abs().max() > 0


def test_the_cosine_adds_to_the_product_of_the_norms() -> None:
    a, b = torch.tensor([3e-3, 4e-3]), torch.tensor([0.0, 2e-3])
    assert float(cosine(a, b)) == pytest.approx(8e-6 / (1e-5 + 1e-6))


def test_a_relative_change_is_of_all_parameters_together() -> None:
    plain = [torch.tensor([[3.0], [0.0]]), torch.tensor([[[4.0]], [[0.0]]])]
    changed = [torch.tensor([[3.0], [1.0]]), torch.tensor([[[2.0]], [[0.0]]])]
    assert relative_change(changed, plain) == pytest.approx(math.sqrt(5) / 5)
    assert relative_change(plain, plain) == 0
    assert math.isfinite(relative_change(changed, [0 * tensor for tensor in plain]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 20])
def test_the_distances_gradient_in_the_images_is_the_finite_difference(
    at_once: int, kind: str
) -> None:
    model, x, step = smooth_net(), images(2), 1e-5
    target = of_real(PLAIN, model, images(4, seed=8), 1)
    x.requires_grad_()
    matched = ClassGradients(PLAIN, at_once).of_synthetic(model, x, GROUP)
    (analytic,) = torch.autograd.grad(distance(kind, matched, target).sum(), x)

    def value(x: Tensor) -> float:
        total = 0.0
        for row, label in enumerate(GROUP.tolist()):
            ours = by_backward(F.cross_entropy(model(x[row]), torch.full((2,), label)), model)
            total += distance_by_hand(kind, ours, [t[row] for t in target])
        return total

    for seed in range(3):
        along = torch.randn(x.shape, generator=draws(seed), dtype=torch.float64)
        ahead, behind = (value(x.detach() + sign * step * along) for sign in (1, -1))
        numeric = (ahead - behind) / (2 * step)
        assert float((analytic * along).sum()) == pytest.approx(numeric, rel=1e-5)
        assert abs(numeric) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_gradient_does_not_depend_on_how_many_classes_are_at_once(kind: str) -> None:
    model, target = convnet(), of_real(PLAIN, convnet(), images(4, seed=8), 1)
    found = []
    for at_once in (1, 20):
        x = images(2).requires_grad_()
        matched = ClassGradients(PLAIN, at_once).of_synthetic(model, x, GROUP)
        found.append(torch.autograd.grad(distance(kind, matched, target).sum(), x)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("at_once", [1, 20])
def test_a_class_does_not_see_the_images_of_another(at_once: int) -> None:
    model, x = convnet(), images(2).requires_grad_()
    matched = ClassGradients(PLAIN, at_once).of_synthetic(model, x, GROUP)
    values = distance("layerwise", matched, of_real(PLAIN, model, images(4, seed=8), at_once))
    (gradient,) = torch.autograd.grad(values[1], x)
    assert gradient[1].abs().max() > 0
    assert gradient[[0, 2]].abs().max() == 0
