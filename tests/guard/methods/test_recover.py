"""Recovery of images from a teacher: its losses and its steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from recovering import SPEC, teacher
from torch import Tensor, nn
from torch.nn import functional as F

from guard.errors import Diverged
from guard.methods.sre2l import SRe2L
from guard.methods.sre2l.recover import recover_images
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models.batchnorm import batchnorms
from helpers import draws

LABELS = torch.arange(4).repeat(2)


def recovered(seed: int = 0, **config: Any) -> tuple[Tensor, dict[str, float]]:
    settings = SRe2L(**{"iterations": 4, **config})
    return recover_images([teacher()], SPEC, LABELS, settings, draws(seed))


def two_layers() -> nn.Sequential:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double().eval()
    for number, layer in enumerate(batchnorms(model)):
        layer.running_mean.copy_(torch.rand(layer.num_features, generator=draws(number)))
        layer.running_var.copy_(torch.rand(layer.num_features, generator=draws(number + 9)) + 0.5)
    return model


def distance_by_hand(x: Tensor, layer: nn.BatchNorm2d) -> float:
    total = {"mean": 0.0, "var": 0.0}
    for channel in range(x.shape[1]):
        values = x[:, channel].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        total["mean"] += (mean - float(layer.running_mean[channel])) ** 2
        total["var"] += (variance - float(layer.running_var[channel])) ** 2
    return math.sqrt(total["mean"]) + math.sqrt(total["var"])


@pytest.mark.parametrize("multiplier", [1.0, 10.0, 0.0])
def test_the_bn_loss_sums_unsquared_distances_of_the_statistics(multiplier: float) -> None:
    model = two_layers()
    x = torch.rand(3, 2, 4, 4, generator=draws(5), dtype=torch.float64)
    first, second = batchnorms(model)
    inner = model[1](model[0](x)).detach()
    expected = multiplier * distance_by_hand(x, first) + distance_by_hand(inner, second)
    with BatchNormLoss(model, multiplier) as loss:
        model(x)
        assert float(loss.take().detach()) == pytest.approx(expected, rel=1e-9)


def test_the_bn_loss_is_taken_once_and_stops_with_its_block() -> None:
    model = two_layers()
    x = torch.rand(3, 2, 4, 4, generator=draws(5), dtype=torch.float64)
    with BatchNormLoss(model, 10) as loss:
        model(x)
        first = float(loss.take().detach())
        model(2 * x)
        assert float(loss.take().detach()) != first
        model(x)
        assert float(loss.take().detach()) == first
    model(x)
    assert loss.terms == []
    assert not any("forward" in vars(layer) for layer in batchnorms(model))


def test_the_bn_loss_is_differentiable_in_the_images() -> None:
    model = two_layers()
    x = torch.rand(3, 2, 4, 4, generator=draws(5), dtype=torch.float64, requires_grad=True)

    def value(x: Tensor) -> Tensor:
        with BatchNormLoss(model, 10) as loss:
            model(x)
            return loss.take()

    assert torch.autograd.gradcheck(value, (x,))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"jitter": 2, "flip": True, "crop": "batch"},
        {"crop": "image", "crop_scale": 0.5},
        {"lr": 100.0},
    ],
)
def test_recovered_images_are_pixels_and_repeatable(config: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    images, last = recovered(**config)
    again, last_again = recovered(**config)
    assert torch.equal(torch.get_rng_state(), before)
    assert images.shape == (8, 3, 8, 8) and images.dtype == torch.float32
    assert 0 <= images.min() and images.max() <= 1
    assert torch.equal(images, again) and last == last_again
    assert not torch.equal(recovered(seed=1, **config)[0], images)
    assert set(last) == {"label_loss", "bn_loss"}


def test_recovery_is_adam_with_a_cosine_on_clamped_normalised_images() -> None:
    """In single precision a few pixels take another side of a ReLU than here."""
    model, steps, lr = teacher().double(), 4, 0.3
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (SPEC.mean, SPEC.std))
    u = torch.randn(8, 3, 8, 8, generator=draws()).double()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for step in range(steps):
        u.requires_grad_()
        with BatchNormLoss(model, 10) as bn_loss:
            loss = F.cross_entropy(model(u * std + mean), LABELS) + 0.05 * bn_loss.take()
        (gradient,) = torch.autograd.grad(loss, u)
        first = 0.5 * first + 0.5 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        ratio = first / (1 - 0.5 ** (step + 1)) / (second / (1 - 0.9 ** (step + 1))).sqrt()
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        u = (u.detach() - rate * ratio).clamp(-mean / std, (1 - mean) / std)
    images, _ = recovered(iterations=steps, lr=lr, bn_weight=0.05)
    difference = (images.double() - (u * std + mean)).abs()
    assert float(difference.quantile(0.95)) < 1e-3
    assert float(difference.median()) < 1e-4


def losses_of(images: Tensor) -> tuple[float, float]:
    model = teacher()
    with torch.no_grad(), BatchNormLoss(model, 10) as bn_loss:
        return float(F.cross_entropy(model(images), LABELS)), float(bn_loss.take())


def test_recovery_lowers_both_losses() -> None:
    start, end = (losses_of(recovered(iterations=n, lr=0.1)[0]) for n in (1, 60))
    assert end[0] < 0.7 * start[0]
    assert end[1] < 0.7 * start[1]


def test_the_bn_weight_trades_the_losses_against_each_other() -> None:
    light, heavy = (
        losses_of(recovered(iterations=40, lr=0.1, bn_weight=weight)[0]) for weight in (0, 10)
    )
    assert light[0] < heavy[0]
    assert light[1] > 1.5 * heavy[1]


def test_recovery_leaves_the_teacher_as_it_was() -> None:
    model = teacher()
    before = copy.deepcopy(model.state_dict())
    recover_images([model], SPEC, LABELS, SRe2L(iterations=2), draws())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.training
    assert not any("forward" in vars(layer) for layer in batchnorms(model))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_recovery_that_is_not_finite_diverges(bad: float) -> None:
    model = teacher()
    model.network[-1].bias.data[0] = bad
    with pytest.raises(Diverged, match="the recovery loss became nan"):
        recover_images([model], SPEC, LABELS, SRe2L(iterations=2), draws())
