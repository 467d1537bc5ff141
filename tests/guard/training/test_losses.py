from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.models.networks import batchnorms
from guard.training.losses import ADVERSARIAL_LOSSES, TrainingLoss, attack_batch, divergences
from guard.training.penalties import Regularizer

SHAPE, CLASSES = (2, 3, 3), 4
EPS = 0.1
ATTACKS = ("adversarial", "trades", "mart")


def number(value: Tensor) -> float:
    return float(value.detach())


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(*layers: nn.Module, seed: int = 0) -> Any:
    """Weights from a generator, in double precision."""
    network, generator = nn.Sequential(*layers), draws(seed)
    for parameter in network.parameters():
        values = torch.empty(parameter.shape, dtype=torch.float64).normal_(generator=generator)
        parameter.data = values * (0.5 if parameter.ndim > 1 else 0.3)
    return network.double()


def smooth_net(seed: int = 0) -> Any:
    layers = (nn.Flatten(), nn.Linear(18, 10), nn.Softplus(), nn.Linear(10, CLASSES))
    return randomised(*layers, seed=seed)


def bn_net() -> Any:
    layers = (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 4))
    model = randomised(*layers)
    model[1].running_mean.copy_(torch.rand(3, generator=draws(1)))
    model[1].running_var.copy_(torch.rand(3, generator=draws(2)) + 0.5)
    return model


def samples(count: int = 6, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = draws(3)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64)
    return low + (high - low) * x, torch.randint(CLASSES, (count,), generator=generator)


def moved(x: Tensor) -> Tensor:
    """Images near x that nobody attacked."""
    return (x + 0.2 * torch.randn(x.shape, generator=draws(9), dtype=x.dtype)).clamp(0, 1)


def config(kind: str = "adversarial", **fields: Any) -> RegularizerConfig:
    return RegularizerConfig(kind=kind, **fields)


def attack(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float = EPS, seed: int = 0, **fields: Any
) -> Tensor:
    return attack_batch(model, x, y, config(**fields), eps, draws(seed))


def start(model: nn.Module, x: Tensor, y: Tensor, *, eps: float = EPS, seed: int = 0) -> Tensor:
    """Where an attack starts: one that makes a step of no visible length."""
    return attack(model, x, y, eps=eps, seed=seed, steps=1, step_size=1e-13)


def loss_by_hand(
    kind: str, model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float
) -> float:
    p, q = (softmax(model(images).detach().numpy()) for images in (x, attacked))
    values = []
    for clean, other, label in zip(p, q, y.tolist(), strict=True):
        divergence = sum(a * math.log(a / b) for a, b in zip(clean, other, strict=True))
        runner_up = max(b for k, b in enumerate(other) if k != label)
        if kind == "adversarial":
            values.append(-math.log(other[label]))
        elif kind == "trades":
            values.append(-math.log(clean[label]) + weight * divergence)
        else:
            boosted = -math.log(other[label]) - math.log(1 - runner_up)
            values.append(boosted + weight * divergence * (1 - clean[label]))
    return sum(values) / len(values)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fields", [{"kind": "none"}, {"weight": 0}, {"kind": "trades"}])
def test_without_a_penalty_the_loss_is_the_cross_entropy(
    fields: dict[str, Any], training: bool
) -> None:
    model, (x, y), generator = bn_net().train(training), samples(), draws()
    expected_logits = copy.deepcopy(model)(x)
    before = generator.get_state()
    plain = TrainingLoss(RegularizerConfig(**{"weight": 0, **fields}), EPS)
    loss, logits = plain(model, x, y, 0, generator)
    assert plain.attack is None
    assert torch.equal(logits, expected_logits)
    assert number(loss) == number(F.cross_entropy(expected_logits, y))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("epoch", [0, 7])
@pytest.mark.parametrize("kind", ["curvature", "loss-difference", "gradient-norm"])
def test_a_penalty_is_added_to_the_cross_entropy(kind: str, epoch: int) -> None:
    model, (x, y) = smooth_net(), samples()
    penalty = config(kind, weight=3, units="eps", fraction=0.5, weight_warmup_epochs=4)
    loss, logits = TrainingLoss(penalty, EPS)(model, x, y, epoch, draws())
    alone = number(Regularizer(penalty, EPS)(model, x, y, epoch, draws()))
    assert alone > 1e-4
    assert number(loss) == pytest.approx(number(F.cross_entropy(model(x), y)) + alone, rel=1e-12)
    assert torch.equal(logits, model(x))


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


@pytest.mark.parametrize("kind", ATTACKS)
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
@pytest.mark.parametrize("kind", ATTACKS)
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


@pytest.mark.parametrize("weight", [0.0, 0.7, 6.0])
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_loss_is_what_its_definition_says(kind: str, weight: float) -> None:
    model, (x, y) = smooth_net(), samples()
    attacked = moved(x)
    loss, logits = ADVERSARIAL_LOSSES[kind](model, x, attacked, y, weight)
    expected = loss_by_hand(kind, model, x, attacked, y, weight)
    assert number(loss) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(logits, model(attacked if kind == "adversarial" else x))


@pytest.mark.parametrize("weight", [0.0, 6.0])
@pytest.mark.parametrize("kind", ATTACKS)
def test_the_gradient_in_the_parameters_is_the_finite_difference(kind: str, weight: float) -> None:
    model, (x, y), step = smooth_net(), samples(), 1e-5
    attacked, parameters = moved(x), list(model.parameters())
    loss, _ = ADVERSARIAL_LOSSES[kind](model, x, attacked, y, weight)
    gradients = torch.autograd.grad(loss, parameters)
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients)
    analytic = torch.cat([gradient.flatten() for gradient in gradients])
    origin = nn.utils.parameters_to_vector(parameters).detach().clone()
    for seed in range(3):
        along, ends = torch.randn(len(origin), generator=draws(seed), dtype=torch.float64), []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(origin + sign * step * along, parameters)
            ends.append(loss_by_hand(kind, model, x, attacked, y, weight))
        nn.utils.vector_to_parameters(origin, parameters)
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert float(analytic @ along) == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def test_trades_without_weight_is_the_cross_entropy() -> None:
    model, (x, y) = smooth_net(), samples()
    loss, _ = ADVERSARIAL_LOSSES["trades"](model, x, moved(x), y, 0)
    assert number(loss) == number(F.cross_entropy(model(x), y))


def test_mart_is_finite_for_a_network_that_is_sure_and_wrong() -> None:
    model, (x, _) = smooth_net().float(), samples()
    model[3].bias.data = torch.tensor([200.0, 0, 0, 0])
    x, y = x.float(), torch.ones(len(x), dtype=torch.long)
    assert model(x).softmax(dim=1)[:, 0].min() == 1
    loss, _ = ADVERSARIAL_LOSSES["mart"](model, x, moved(x), y, 5)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def test_divergences_are_those_of_torch() -> None:
    clean, other = 3 * torch.randn(2, 5, 7, generator=draws(), dtype=torch.float64)
    expected = F.kl_div(other.log_softmax(1), clean.softmax(1), reduction="none").sum(dim=1)
    torch.testing.assert_close(divergences(clean, other), expected, rtol=1e-12, atol=0)
    assert not torch.allclose(divergences(other, clean), expected)
    assert divergences(clean, clean).abs().max() == 0


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize(("own", "radius"), [(None, 0.1), (0.02, 0.02), (0.3, 0.3)])
def test_the_radius_is_the_threat_models_unless_the_config_has_one(
    kind: str, own: float | None, radius: float
) -> None:
    model, (x, y) = smooth_net(), samples()
    attacked = TrainingLoss(config(kind, eps=own), EPS).attacked(model, x, y, draws())
    assert attacked is not None
    assert float((attacked - x).abs().max()) == pytest.approx(radius)
    assert torch.equal(attacked, attack(model, x, y, kind=kind, eps=radius))


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.25), (2, 0.75), (3, 1), (9, 1)])
@pytest.mark.parametrize("kind", ["trades", "mart"])
def test_the_weight_of_an_adversarial_loss_warms_up(kind: str, epoch: int, share: float) -> None:
    model, (x, y) = smooth_net(), samples()
    warming = config(kind, weight=6, weight_warmup_epochs=4)
    loss, _ = TrainingLoss(warming, EPS)(model, x, y, epoch, draws())
    attacked = attack(model, x, y, kind=kind)
    expected = loss_by_hand(kind, model, x, attacked, y, 6 * share)
    assert number(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["pgd-at", "fgsm-rs", "trades", "mart"])
@pytest.mark.parametrize("role", ["regularizer", "adversary"])
def test_a_named_attack_is_the_loss_of_its_attacked_images(role: str, name: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    named = RegularizerConfig.named(name)
    settings = {"regularizer": RegularizerConfig.named("none"), role: named}
    loss, _ = TrainingLoss(eps=EPS, **settings)(model, x, y, 0, draws())
    twin = bn_net().train()
    attacked = attack_batch(twin, x, y, named, EPS, draws())
    expected, _ = ADVERSARIAL_LOSSES[named.kind](twin, x, attacked, y, named.weight)
    assert number(loss) == number(expected)
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


@pytest.mark.parametrize("adversary", ["pgd-at", "trades", "mart"])
@pytest.mark.parametrize("kind", ["curvature", "loss-difference", "gradient-norm"])
def test_a_penalty_on_adversarial_training_is_that_of_the_clean_images(
    kind: str, adversary: str
) -> None:
    model, (x, y) = smooth_net(), samples()
    penalty, named = config(kind, weight=2, h=0.5), RegularizerConfig.named(adversary)
    both, logits = TrainingLoss(penalty, EPS, named)(model, x, y, 0, draws())
    none = RegularizerConfig.named("none")
    alone, expected_logits = TrainingLoss(none, EPS, named)(model, x, y, 0, draws())
    extra = number(Regularizer(penalty, EPS)(model, x, y, 0, draws()))
    assert extra > 1e-3
    assert number(both) == pytest.approx(number(alone) + extra, rel=1e-12)
    assert torch.equal(logits, expected_logits)
    gradient, parts = (
        torch.autograd.grad(value, model[1].weight)[0]
        for value in (both, alone + Regularizer(penalty, EPS)(model, x, y, 0, draws()))
    )
    torch.testing.assert_close(gradient, parts)


@pytest.mark.parametrize(
    ("regularizer", "adversary", "acting"),
    [
        ("none", "none", None),
        ("curvature", "none", None),
        ("curvature", "trades", "trades"),
        ("mart", "none", "mart"),
        ("none", "pgd-at", "adversarial"),
    ],
)
def test_whichever_of_both_attacks_is_the_attack(
    regularizer: str, adversary: str, acting: str | None
) -> None:
    named = [RegularizerConfig.named(name) for name in (regularizer, adversary)]
    loss = TrainingLoss(named[0], EPS, named[1])
    assert (loss.attack and loss.attack.kind) == acting
    model, (x, y) = smooth_net(), samples()
    assert (loss.attacked(model, x, y, draws()) is None) == (acting is None)


@pytest.mark.parametrize("kind", ["none", "curvature", "loss-difference", "gradient-norm"])
def test_a_step_moves_the_running_statistics_as_a_plain_one(kind: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    loss, _ = TrainingLoss(config(kind, weight=1), EPS)(model, x, y, 0, draws())
    plain = bn_net().train()
    plain(x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert all(layer.training for layer in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert batchnorms(model)[0].num_batches_tracked == 1
