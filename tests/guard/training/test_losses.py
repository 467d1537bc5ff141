"""The losses that networks are trained with."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from attacked import (
    ATTACKS,
    DEFINED,
    EPS,
    adversarial_loss,
    attack,
    bn_net,
    config,
    samples,
    smooth_net,
)
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.config.regularizers import KINDS
from guard.models.batchnorm import batchnorms
from guard.training.losses import TrainingLoss, attack_batch, divergences
from guard.training.penalties import Regularizer
from helpers import draws, number

PENALTIES = tuple(kind for kind, row in KINDS.items() if kind != "none" and not row.attacks)


def moved(x: Tensor) -> Tensor:
    """Images near x that nobody attacked."""
    return (x + 0.2 * torch.randn(x.shape, generator=draws(9), dtype=x.dtype)).clamp(0, 1)


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
@pytest.mark.parametrize("kind", PENALTIES)
def test_a_penalty_is_added_to_the_cross_entropy(kind: str, epoch: int) -> None:
    model, (x, y) = smooth_net(), samples()
    penalty = config(kind, weight=3, units="eps", fraction=0.5, weight_warmup_epochs=4)
    loss, logits = TrainingLoss(penalty, EPS)(model, x, y, epoch, draws())
    alone = number(Regularizer(penalty, EPS)(model, x, y, epoch, draws()))
    assert alone > 1e-4
    assert number(loss) == pytest.approx(number(F.cross_entropy(model(x), y)) + alone, rel=1e-12)
    assert torch.equal(logits, model(x))


@pytest.mark.parametrize("weight", [0.0, 0.7, 6.0])
@pytest.mark.parametrize("kind", DEFINED)
def test_a_loss_is_what_its_definition_says(kind: str, weight: float) -> None:
    model, (x, y) = smooth_net(), samples()
    attacked = moved(x)
    loss, logits = adversarial_loss(kind, model, x, attacked, y, weight)
    expected = loss_by_hand(kind, model, x, attacked, y, weight)
    assert number(loss) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(logits, model(attacked if kind == "adversarial" else x))


@pytest.mark.parametrize("weight", [0.0, 6.0])
@pytest.mark.parametrize("kind", DEFINED)
def test_the_gradient_in_the_parameters_is_the_finite_difference(kind: str, weight: float) -> None:
    model, (x, y), step = smooth_net(), samples(), 1e-5
    attacked, parameters = moved(x), list(model.parameters())
    loss, _ = adversarial_loss(kind, model, x, attacked, y, weight)
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
    loss, _ = adversarial_loss("trades", model, x, moved(x), y, 0)
    assert number(loss) == number(F.cross_entropy(model(x), y))


def test_mart_is_finite_for_a_network_that_is_sure_and_wrong() -> None:
    model, (x, _) = smooth_net().float(), samples()
    model[3].bias.data = torch.tensor([200.0, 0, 0, 0])
    x, y = x.float(), torch.ones(len(x), dtype=torch.long)
    assert model(x).softmax(dim=1)[:, 0].min() == 1
    loss, _ = adversarial_loss("mart", model, x, moved(x), y, 5)
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
    expected, _ = adversarial_loss(named.kind, twin, x, attacked, y, named.weight)
    assert number(loss) == number(expected)
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


@pytest.mark.parametrize("adversary", ["pgd-at", "trades", "mart"])
@pytest.mark.parametrize("kind", PENALTIES)
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


@pytest.mark.parametrize("kind", ["none", *PENALTIES])
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
