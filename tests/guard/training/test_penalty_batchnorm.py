"""Penalties of networks with BatchNorm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from penalised import DEFINED, KINDS, bn_net, by_hand, penalty, samples, smooth_net, step_along
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.models.batchnorm import BatchNorm, batchnorms
from guard.models.modes import constant_statistics, statistics_of
from guard.training.losses import TrainingLoss
from guard.training.penalties import Regularizer
from helpers import draws, number


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_penalty_leaves_the_models_state_alone(kind: str, bn: str, training: bool) -> None:
    model, (x, y) = bn_net().train(training), samples()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = copy.deepcopy(model)
    buffers = dict(model.named_buffers())
    value = penalty(model, x, y, kind=kind, bn=bn, fraction=0.7)
    modes = [module.training for module in model.modules()]
    assert modes == [module.training for module in before.modules()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), name
    assert all(dict(model.named_buffers())[name] is tensor for name, tensor in buffers.items())
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[4].weight.grad is None
    assert all(layer.momentum == 0.1 for layer in batchnorms(model))
    value.backward()
    assert model[4].weight.grad.abs().max() > 0


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
def test_a_penalty_leaves_the_mode_of_every_layer_alone(bn: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    model[1].eval()
    penalty(model, x, y, bn=bn)
    assert model.training and model[0].training
    assert not model[1].training


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
def test_a_model_that_fails_is_restored_too(bn: str) -> None:
    model, (x, _) = bn_net().train(), samples()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(IndexError):
        penalty(model, x, torch.full((len(x),), 99), bn=bn)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("bn", "pulls"), [("eval", True), ("frozen-batch", True), ("train", False)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_only_in_training_mode_a_penalty_leaves_what_batchnorm_undoes_alone(
    kind: str, bn: str, pulls: bool
) -> None:
    """A training step's loss has no slope along the scale and the shift of what a BatchNorm gets,
    so whatever pulls there is not resisted."""
    model, (x, y) = bn_net().train(), samples()
    model[1].eps = 1e-14
    penalty(model, x, y, kind=kind, h=0.4, bn=bn).backward()
    weight, bias = model[0].weight, model[0].bias
    scaling = number((weight.grad * weight).sum((1, 2, 3)).abs().max())
    shifting = number(bias.grad.abs().max())
    size = number(weight.grad.norm() * weight.norm())
    assert (scaling > 1e-3 * size) == (shifting > 1e-3 * size) == pulls
    if not pulls:
        assert max(scaling, shifting) < 1e-10 * size


@pytest.mark.parametrize("training", [True, False])
def test_frozen_batch_runs_the_model_as_training_mode_would(training: bool) -> None:
    model, (x, _) = bn_net().train(training), samples()
    expected = copy.deepcopy(model).train()(x)
    with constant_statistics(model, statistics_of(model, x)):
        torch.testing.assert_close(model(x), expected)
        first = model(x[:1])
    torch.testing.assert_close(first, expected[:1])


def with_statistics_of(model: nn.Sequential, x: Tensor) -> nn.Sequential:
    """A copy whose first BatchNorm's running statistics are those of x."""
    twin = copy.deepcopy(model).eval()
    inputs = twin[0](x).detach().transpose(0, 1).flatten(1)
    twin[1].running_mean.copy_(inputs.mean(dim=1))
    twin[1].running_var.copy_((inputs - inputs.mean(dim=1, keepdim=True)).square().mean(dim=1))
    return twin


@pytest.mark.parametrize("kind", DEFINED)
def test_frozen_batch_takes_the_batchs_statistics_as_constants(kind: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    value = number(penalty(model, x, y, kind=kind, h=0.4, bn="frozen-batch"))
    assert value == pytest.approx(by_hand(with_statistics_of(model, x), x, y, kind, 0.4, 2))


def test_frozen_batch_takes_the_whole_batch_under_a_fraction() -> None:
    model, (x, y) = bn_net().train(), samples()
    value = number(penalty(model, x, y, h=0.4, bn="frozen-batch", fraction=0.1))
    twin = with_statistics_of(model, x)
    alone = [by_hand(twin, x[i : i + 1], y[i : i + 1], "curvature", 0.4, 2) for i in range(len(x))]
    assert min(abs(value - one) for one in alone) < 1e-9 * value


@pytest.mark.parametrize("kind", DEFINED)
def test_eval_takes_the_running_statistics(kind: str) -> None:
    model, (x, y) = bn_net().train(), samples()
    value = number(penalty(model, x, y, kind=kind, h=0.4, bn="eval"))
    assert value == pytest.approx(by_hand(copy.deepcopy(model).eval(), x, y, kind, 0.4, 2))


def test_train_lets_the_batchs_statistics_follow_the_input() -> None:
    model, (x, y) = bn_net(), samples()
    twin = copy.deepcopy(model).train()
    gradient = torch.func.grad(lambda v: F.cross_entropy(twin(v), y, reduction="sum"))
    twin[1].momentum = 0.0
    twin[1].track_running_stats = False
    g = gradient(x)
    z = torch.stack([step_along(row, "gradient") for row in g])
    expected = (gradient(x + 0.4 * z) - g).flatten(1).square().sum(dim=1).mean()
    value = number(penalty(model, x, y, h=0.4, bn="train"))
    assert value == pytest.approx(number(expected), rel=1e-9)
    frozen = number(penalty(model, x, y, h=0.4, bn="frozen-batch"))
    assert abs(frozen - value) > 1e-3 * value


def test_modes_agree_in_a_model_without_batch_norm() -> None:
    model, (x, y) = smooth_net(), samples()
    assert not any(isinstance(module, BatchNorm) for module in model.modules())
    values = [number(penalty(model, x, y, bn=bn)) for bn in ("eval", "frozen-batch", "train")]
    assert values[0] == values[1] == values[2] > 0


def counted_passes(model: nn.Module, config: RegularizerConfig, x: Tensor, y: Tensor) -> int:
    """Forward passes of a training step."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    handle = model.register_forward_hook(note)
    TrainingLoss(config)(model, x, y, 0, draws())
    handle.remove()
    return count


@pytest.mark.parametrize(
    ("bn", "fraction", "passes"),
    [("eval", 1.0, 3), ("frozen-batch", 1.0, 3), ("train", 1.0, 2), ("train", 0.5, 3)],
)
def test_a_step_takes_no_pass_twice(bn: Any, fraction: float, passes: int) -> None:
    config = RegularizerConfig(weight=1, bn=bn, fraction=fraction)
    x, y = samples()
    assert counted_passes(bn_net().train(), config, x, y) == passes
    assert counted_passes(smooth_net().train(), config, x, y) == (2 if fraction == 1 else 3)


@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", [bn_net, smooth_net])
def test_a_step_is_the_plain_loss_and_the_penalty(net: Any, kind: Any, bn: Any) -> None:
    """In value and gradient, whatever passes they share."""
    config, (x, y) = RegularizerConfig(kind=kind, weight=0.7, bn=bn), samples()
    found, apart = net().train(), net().train()
    loss, logits = TrainingLoss(config)(found, x, y, 0, draws())
    expected_logits = apart(x)
    expected = F.cross_entropy(expected_logits, y) + Regularizer(config)(apart, x, y, 0, draws())
    torch.testing.assert_close((loss, logits), (expected, expected_logits))
    loss.backward()
    expected.backward()
    for ours, theirs in zip(found.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, apart.state_dict()[name])
