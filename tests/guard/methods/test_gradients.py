"""The gradients of each class, one by one and many at once."""

from __future__ import annotations

import copy

import pytest
import torch
from class_gradients import (
    EPS,
    GROUP,
    PLAIN,
    assert_same,
    by_backward,
    convnet,
    images,
    named,
    of_real,
)
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.methods.dc.gradients import ClassGradients, relative_change
from guard.seeding import generator
from guard.training.penalties import Regularizer
from helpers import draws

SETTINGS = tuple(name for name in RegularizerConfig.NAMED if name != "released-imagenet")
"""But the one whose weight is too small to be seen."""


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("name", SETTINGS)
def test_classes_at_once_are_classes_one_by_one(name: str, fraction: float) -> None:
    loss, model = named(name, fraction=fraction), convnet()
    loop, vectorised = (of_real(loss, model, images(), at_once) for at_once in (1, 20))
    assert_same(vectorised, loop)
    plain = of_real(PLAIN, model, images(), 1)
    assert (relative_change(loop, plain) > 1e-4) is (name != "none")


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
@pytest.mark.parametrize("name", ["curvature", "loss-difference", "gradient-norm"])
def test_classes_at_once_are_classes_one_by_one_with_batchnorm(name: str, bn: str) -> None:
    loss, model = named(name, bn=bn), convnet("batch")
    before = copy.deepcopy(model.state_dict())
    loop, vectorised = (of_real(loss, model, images(), at_once) for at_once in (1, 20))
    assert_same(vectorised, loop)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    in_evaluation = of_real(named(name), model, images(), 1)
    assert (relative_change(loop, in_evaluation) > 1e-3) is (bn != "eval")


@pytest.mark.parametrize("at_once", [1, 20])
def test_synthetic_gradients_are_plain_gradients_of_each_class(at_once: int) -> None:
    model, x = convnet(), images(2)
    found = ClassGradients(named("curvature", weight=100), at_once).of_synthetic(model, x, GROUP)
    for row, label in enumerate(GROUP.tolist()):
        loss = F.cross_entropy(model(x[row]), torch.full((2,), label))
        alone = by_backward(loss, model)
        assert_same([t[row : row + 1].detach() for t in found], [t[None] for t in alone])


@pytest.mark.parametrize("at_once", [1, 20])
@pytest.mark.parametrize("name", ["none", "curvature", "cure", "released-cifar", "gradient-norm"])
def test_a_penalised_gradient_is_that_of_a_backward_pass_on_the_class(
    name: str, at_once: int
) -> None:
    model, x, epoch = convnet(), images(), 2
    found = of_real(named(name), model, x, at_once, epoch)
    for row, label in enumerate(GROUP.tolist()):
        y = torch.full((6,), label)
        penalty = Regularizer(named(name).regularizer, EPS)(model, x[row], y, epoch, draws())
        alone = by_backward(F.cross_entropy(model(x[row]), y) + penalty, model)
        assert_same([t[row : row + 1] for t in found], [t[None] for t in alone])


@pytest.mark.parametrize("at_once", [1, 20])
@pytest.mark.parametrize("name", ["pgd-at", "fgsm-rs", "trades", "mart"])
def test_an_attacked_gradient_is_that_of_a_backward_pass_on_the_class(
    name: str, at_once: int
) -> None:
    model, x, loss = convnet(), images(), named(name)
    found = of_real(loss, model, x, at_once)
    y = GROUP.repeat_interleave(6)
    starts = [generator(0, "attack", label) for label in GROUP.tolist()]
    moved = [loss.attacked(model, x[n], y[6 * n : 6 * n + 6], own) for n, own in enumerate(starts)]
    attacked = torch.cat([rows for rows in moved if rows is not None])
    assert float((attacked - x.flatten(0, 1)).abs().max()) > 0.9 * EPS
    for row in range(3):
        own = slice(6 * row, 6 * row + 6)
        value, _ = loss.of(model, x[row], attacked[own], y[own], 0, draws())
        alone = by_backward(value, model)
        assert_same([t[row : row + 1] for t in found], [t[None] for t in alone])


@pytest.mark.parametrize("at_once", [1, 20])
def test_a_fraction_is_the_same_of_every_class(at_once: int) -> None:
    """Classes with the same images and labels have the same gradient; other draws, another one."""
    model, loss, x = convnet(), named("curvature", fraction=0.25, weight=100), images()
    same, label = x[:1].expand_as(x), torch.zeros(3, dtype=torch.long)
    gradients = ClassGradients(loss, at_once)
    found = gradients.of_real(model, same, label, 0, 0)
    assert_same([t[:1] for t in found], [t[1:2] for t in found])
    assert relative_change(gradients.of_real(model, same, label, 0, 1), found) > 1e-3


@pytest.mark.parametrize("h", [0.1, 40.0])
@pytest.mark.parametrize("at_once", [1, 20])
def test_guard_dc_mixes_the_gradients_of_clean_and_moved_images(at_once: int, h: float) -> None:
    """Reading B: ∇L + λs(∇L_z − ∇L), s = sign(L_z − L), at images moved along their unit gradient;
    s = 1 for a short step, while a long one also finds lower losses."""
    model, x, loss = convnet(), images(2, seed=14), named("guard-dc", h=h)
    model.network[-1].weight.data.mul_(10)
    assert loss.regularizer.weight == 0.5
    found, signs = of_real(loss, model, x, at_once), set()
    for row, label in enumerate(GROUP.tolist()):
        y, steps = torch.full((2,), label), []
        for image in x[row]:
            leaf = image[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y[:1]), leaf)
            steps.append(image + h * gradient[0] / gradient.square().sum().sqrt())
        clean = F.cross_entropy(model(x[row]), y)
        there = F.cross_entropy(model(torch.stack(steps)), y)
        sign = 1 if float(there.detach()) > float(clean.detach()) else -1
        pairs = zip(by_backward(clean, model), by_backward(there, model), strict=True)
        expected = [(a + 0.5 * sign * (b - a))[None] for a, b in pairs]
        assert_same([t[row : row + 1] for t in found], expected)
        signs.add(sign)
    assert signs == ({1} if h < 1 else {1, -1})


@pytest.mark.parametrize("at_once", [1, 20])
def test_real_gradients_are_detached_and_leave_the_model_alone(at_once: int) -> None:
    model = convnet("batch")
    before, random_state = copy.deepcopy(model), torch.get_rng_state()
    gradients = ClassGradients(named("trades", weight=3), at_once)
    found = gradients.of_real(model, images(), GROUP, 0, 0)
    matched = gradients.of_synthetic(model, images().requires_grad_(), GROUP)
    assert not any(tensor.requires_grad for tensor in found)
    assert all(tensor.requires_grad for tensor in matched)
    shapes = [(3, *parameter.shape) for parameter in model.parameters()]
    assert [tensor.shape for tensor in found] == shapes == [tensor.shape for tensor in matched]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in model.state_dict().items())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), random_state)
