"""Attacked images that networks are trained on."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from attacked import ATTACKS, DEFINED, EPS, SHAPE, attack, bn_net, config, samples, smooth_net
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.training.losses import attack_batch, divergences
from helpers import draws, number


def start(model: nn.Module, x: Tensor, y: Tensor, *, eps: float = EPS, seed: int = 0) -> Tensor:
    """Where an attack starts: one that makes a step of no visible length."""
    return attack(model, x, y, eps=eps, seed=seed, steps=1, step_size=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_stays_in_the_ball_and_in_the_pixel_range(kind: str, steps: int) -> None:
    model, (x, y) = smooth_net(), samples(40)
    attacked = attack(model, x, y, kind=kind, steps=steps)
    assert float((attacked - x).abs().max()) <= EPS + 1e-12
    assert attacked.min() == 0 and attacked.max() == 1, "both ends of the range are met"
    assert attacked.dtype == x.dtype and not attacked.requires_grad


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_lets_augmented_pixels_be_where_they_are(kind: str) -> None:
    model, (x, y) = smooth_net(), samples(40, low=-0.5, high=1.5)
    attacked = attack(model, x, y, kind=kind)
    assert float((attacked - x).abs().max()) <= EPS + 1e-12
    assert bool((attacked >= x.clamp(max=0)).all() and (attacked <= x.clamp(min=1)).all())
    beyond = (x < -EPS) | (x > 1 + EPS)
    assert bool(((attacked < 0) | (attacked > 1))[beyond].all())
    assert bool((attacked != x)[beyond].any())


def test_one_step_of_fgsm_rs_stays_in_the_ball() -> None:
    """5/8 of the pixels end on its surface: those whose start is not deep on the other side."""
    model, (x, y) = smooth_net(), samples(200, low=0.4, high=0.6)
    fast = RegularizerConfig.named("fgsm-rs")
    shift = (attack_batch(model, x, y, fast, EPS, draws()) - x).abs() / EPS
    assert (fast.steps, fast.step_size) == (1, 1.25)
    assert float(shift.max()) <= 1 + 1e-9
    assert float((shift > 1 - 1e-9).double().mean()) == pytest.approx(5 / 8, abs=0.03)


@pytest.mark.parametrize("kind", DEFINED)
def test_an_attack_raises_what_it_ascends_and_more_steps_raise_it_more(kind: str) -> None:
    model, (x, y) = smooth_net(), samples(60, low=0.2, high=0.8)

    def gain(images: Tensor) -> float:
        if kind == "trades":
            return number(divergences(model(x), model(images)).mean())
        return number(F.cross_entropy(model(images), y))

    gains = [gain(attack(model, x, y, kind=kind, steps=steps)) for steps in (1, 2, 4, 8)]
    assert gain(x) < gains[0] and gain(start(model, x, y)) < gains[0]
    assert gains == sorted(gains)
    assert gains[-1] > 1.1 * gains[0]


def pixel_by_pixel(
    kind: str, model: nn.Module, x: Tensor, y: Tensor, begin: Tensor, steps: int, size: float
) -> Tensor:
    """Signed ascent, one sample and one pixel after another."""
    result = begin.clone()
    for i in range(len(x)):
        p = model(x[i : i + 1]).softmax(dim=1).detach()[0]
        for _ in range(steps):
            here = result[i : i + 1].clone().requires_grad_()
            log_q = model(here).log_softmax(dim=1)[0]
            gain = (p * (p.log() - log_q)).sum() if kind == "trades" else -log_q[y[i]]
            (gradient,) = torch.autograd.grad(gain, here)
            for place in np.ndindex(SHAPE):
                value = float(result[i][place]) + size * EPS * float(gradient[0][place].sign())
                pixel = float(x[i][place])
                value = min(max(value, pixel - EPS), pixel + EPS)
                result[i][place] = min(max(value, min(pixel, 0.0)), max(pixel, 1.0))
    return result


@pytest.mark.parametrize(("steps", "size"), [(1, 1.25), (3, 0.25), (7, 0.4)])
@pytest.mark.parametrize("kind", DEFINED)
def test_an_attack_is_what_its_definition_says(kind: str, steps: int, size: float) -> None:
    model, (x, y) = smooth_net(), samples(low=-0.1, high=1.1)
    begin = start(model, x, y, seed=5)
    expected = pixel_by_pixel(kind, model, x, y, begin, steps, size)
    attacked = attack(model, x, y, kind=kind, steps=steps, step_size=size, seed=5)
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-12)


def test_an_attack_starts_anywhere_in_the_ball() -> None:
    """Kolmogorov-Smirnov distance to U(-eps, eps), pixel by pixel."""
    model, (x, y) = smooth_net(), samples(200, low=0.4, high=0.6)
    shift = ((start(model, x, y) - x) / EPS).flatten().sort().values
    wanted = torch.linspace(-1, 1, len(shift), dtype=shift.dtype)
    assert float((shift - wanted).abs().max()) < 2 * 1.9 / math.sqrt(len(shift))
    by_pixel = torch.corrcoef((start(model, x, y) - x).flatten(1).T)
    assert float((by_pixel - torch.eye(18)).abs().max()) < 0.4


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_depends_on_its_generator_alone(kind: str) -> None:
    model, (x, y) = smooth_net(), samples()
    before = torch.get_rng_state()
    first, again, other = (attack(model, x, y, kind=kind, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    generator = draws()
    pair = [attack_batch(model, x, y, config(kind), EPS, generator) for _ in range(2)]
    assert not torch.equal(*pair)


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_of_a_sample_does_not_depend_on_the_others(kind: str) -> None:
    """The draws for the first sample are the same."""
    model, (x, y) = bn_net().train(), samples(6)
    together = attack(model, x, y, kind=kind)[:1]
    torch.testing.assert_close(together, attack(model, x[:1], y[:1], kind=kind), rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_leaves_the_model_alone(kind: str, training: bool) -> None:
    model, (x, y) = bn_net().train(training), samples()
    model[1].train(not training)
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model)
    buffers = dict(model.named_buffers())
    images = x.clone()
    attack(model, x, y, kind=kind)
    assert torch.equal(x, images) and not x.requires_grad
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), name
    assert all(dict(model.named_buffers())[name] is tensor for name, tensor in buffers.items())
    wanted = [p.requires_grad for p in before.parameters()]
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[4].weight.grad is None


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_runs_in_evaluation_mode_with_frozen_parameters(kind: str) -> None:
    model, (x, y), seen = bn_net().train(), samples(), set()

    def note(module: nn.Module, *_: object) -> None:
        modes = {layer.training for layer in module.modules()}
        seen.add((*modes, *{p.requires_grad for p in module.parameters()}))

    model.register_forward_hook(note)
    attacked = attack(model, x, y, kind=kind)
    assert seen == {(False, False)}
    assert torch.equal(attacked, attack(copy.deepcopy(model).eval(), x, y, kind=kind))


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_model_that_an_attack_breaks_is_restored(kind: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    with pytest.raises((IndexError, RuntimeError)):
        attack(model, x[..., :1], y, kind=kind)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
