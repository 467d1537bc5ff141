from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import ModelConfig, RegularizerConfig
from guard.data.spec import ImageSpec
from guard.methods.dc.gradients import ClassGradients, Gradients, cosine, distance, relative_change
from guard.models.batchnorm import batchnorms
from guard.models.networks import Classifier, build_model
from guard.seeding import generator
from guard.training.losses import TrainingLoss
from guard.training.penalties import Regularizer
from helpers import draws

SPEC = ImageSpec(
    channels=3,
    image_size=8,
    num_classes=4,
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
    class_names=tuple("abcd"),
)
GROUP = torch.tensor([2, 0, 3])
EPS = 0.03
PLAIN = TrainingLoss(RegularizerConfig.named("none"))
SHAPES = ((5, 3, 2, 2), (5,), (4, 6), (4,), (2, 3, 4))
KINDS = ("layerwise", "cosine", "squared")
SETTINGS = tuple(name for name in RegularizerConfig.NAMED if name != "released-imagenet")
"""But the one whose weight is too small to be seen."""


def convnet(norm: str = "instance") -> Classifier:
    model = build_model(ModelConfig(name="convnet", width=4, depth=2, norm=norm), SPEC).double()
    for bn in batchnorms(model):
        bn.running_mean.copy_(torch.rand(4, generator=draws(1)))
        bn.running_var.copy_(torch.rand(4, generator=draws(2)) + 0.5)
    return model.eval()


def smooth_net() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 4)).double()
    for seed, parameter in enumerate(model.parameters()):
        values = torch.randn(parameter.shape, generator=draws(seed), dtype=torch.float64)
        parameter.data = 0.3 * values
    return model


def images(count: int = 6, seed: int = 5) -> Tensor:
    """Pixels (3, count, C, H, W) of the classes of GROUP."""
    return torch.rand(3, count, 3, 8, 8, generator=draws(seed), dtype=torch.float64)


def named(name: str, **fields: Any) -> TrainingLoss:
    return TrainingLoss(RegularizerConfig(**{**RegularizerConfig.NAMED[name], **fields}), EPS)


def of_real(
    loss: TrainingLoss, model: nn.Module, x: Tensor, at_once: int, epoch: int = 0, seed: int = 0
) -> Gradients:
    return ClassGradients(loss, at_once).of_real(model, x, GROUP, epoch, seed)


def by_backward(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """What an ordinary backward pass leaves in `.grad`, which is emptied again."""
    model.zero_grad()
    loss.backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def assert_same(got: Gradients, wanted: Gradients, tolerance: float = 1e-9) -> None:
    """Relative, of each parameter and class."""
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        for a, b in zip(one, other, strict=True):
            assert float((a - b).norm()) <= tolerance * float(b.norm()) + 1e-13


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
