from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import DSA_OPS, StudentConfig, TrainConfig
from guard.data.augment import flip, in_space
from guard.data.dsa import draw_dsa
from guard.data.images import TensorImages
from guard.errors import Diverged
from guard.models.input_layer import Normalize
from guard.seeding import fenced
from guard.training.loop import (
    accuracy,
    build_optimizer,
    check_better_than_chance,
    image_batches,
    learning_rate,
    train,
)
from helpers import CPU, draws

SPACE = Normalize((0.3,), (0.25,))


def toy() -> tuple[Tensor, Tensor]:
    """Two classes of points, apart by a line."""
    x = torch.randn(64, 5, generator=draws())
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()


def net() -> nn.Sequential:
    with fenced(0):
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def objective(model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    logits = model(x)
    return F.cross_entropy(logits, y), logits


def whole(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = toy()
    yield from zip(x.split(24), y.split(24), strict=True)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("epochs", [4, 10])
def test_the_cosine_schedule(epochs: int, warmup: int) -> None:
    config = TrainConfig(epochs=epochs, lr=0.4, warmup_epochs=warmup)
    rates = [learning_rate(config, epoch) for epoch in range(epochs)]
    expected = [0.004 + (0.4 - 0.004) * epoch / warmup for epoch in range(warmup)] + [
        0.2 + 0.2 * math.cos(math.pi * epoch / (epochs - warmup))
        for epoch in range(epochs - warmup)
    ]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[warmup] == pytest.approx(0.4)
    assert learning_rate(config, epochs) == pytest.approx(0, abs=1e-12)


def test_the_half_cosine_schedule_ends_at_a_half() -> None:
    config = TrainConfig(epochs=10, lr=0.4, schedule="half-cosine", warmup_epochs=2)
    rates = [learning_rate(config, epoch) for epoch in range(2, 11)]
    assert rates == pytest.approx([0.2 + 0.2 * math.cos(math.pi * n / 16) for n in range(9)])
    assert rates[-1] == pytest.approx(0.2)
    assert StudentConfig.named("rded").train.schedule == "half-cosine"


def test_the_constant_schedule() -> None:
    config = TrainConfig(epochs=5, lr=0.4, schedule="constant", warmup_epochs=2)
    rates = [learning_rate(config, epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.004, 0.202, 0.4, 0.4, 0.4])


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(("epochs", "full"), [(4, 3), (10, 6), (301, 151), (1000, 501)])
def test_the_step_schedule_falls_to_a_tenth_half_way(epochs: int, full: int, warmup: int) -> None:
    """After epoch E//2, as DC counts."""
    config = TrainConfig(epochs=epochs, lr=0.4, schedule="step", warmup_epochs=warmup)
    rates = [learning_rate(config, epoch) for epoch in range(warmup, epochs)]
    assert rates == pytest.approx([0.4] * (full - warmup) + [0.04] * (epochs - full))
    assert learning_rate(config, 0) == pytest.approx(0.004 if warmup else 0.4)


def step_without_gradient(**config: Any) -> dict[str, float]:
    """How much one optimizer step at zero gradients shrinks each parameter."""
    model = net()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(TrainConfig(**config), model).step()
    return {name: float(1 - p.detach().mean()) for name, p in model.named_parameters()}


def test_adamw_decays_everything_where_it_is_told_to() -> None:
    shrunk = step_without_gradient(optimizer="adamw", lr=0.1, weight_decay=0.2, decay_all=True)
    assert list(shrunk.values()) == pytest.approx([0.02] * 6, abs=1e-6)
    assert StudentConfig.named("sre2l-cifar").train.decay_all


def test_adamw_decays_only_tensors_of_more_than_one_dimension() -> None:
    shrunk = step_without_gradient(optimizer="adamw", lr=0.1, weight_decay=0.2)
    matrices = {"0.weight", "3.weight"}
    assert len(shrunk) == 6
    for name, amount in shrunk.items():
        assert amount == pytest.approx(0.02 if name in matrices else 0, abs=1e-6)


def test_sgd_decays_every_parameter() -> None:
    shrunk = step_without_gradient(optimizer="sgd", lr=0.1, weight_decay=0.2)
    assert list(shrunk.values()) == pytest.approx([0.02] * 6, abs=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_has_the_configured_momentum(momentum: float) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    model = nn.ParameterList([parameter])
    config = TrainConfig(lr=1, momentum=momentum, weight_decay=0)
    optimizer = build_optimizer(config, model)
    for _ in range(2):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert float(parameter.detach()) == pytest.approx(-2 - momentum)


def test_a_parameter_without_gradient_is_left_out() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    train(model, TrainConfig(epochs=2), whole, objective)
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.grad is None


@pytest.mark.parametrize("optimizer", [{"optimizer": "sgd"}, {"optimizer": "adamw", "lr": 0.02}])
def test_training_fits_a_toy(optimizer: dict[str, Any]) -> None:
    model = net().eval()
    history = train(model, TrainConfig(epochs=15, **optimizer), whole, objective)
    assert model.training
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].accuracy > 0.9
    x, y = toy()
    assert accuracy(model, iter([(x[:30], y[:30]), (x[30:], y[30:])])) > 0.9
    assert not model.training


def test_hooks_run_after_every_step_and_every_epoch() -> None:
    model, seen = net(), []
    before = [model[0].weight.detach().clone()]

    def after_step(given: nn.Module) -> None:
        assert given is model and model.training
        assert not torch.equal(model[0].weight, before[-1])
        before.append(model[0].weight.detach().clone())
        seen.append("step")

    def after_epoch(given: nn.Module) -> None:
        assert given is model
        assert torch.equal(model[0].weight, before[-1])
        seen.append("epoch")

    history = train(model, TrainConfig(epochs=2), whole, objective, after_step, after_epoch)
    assert seen == ["step", "step", "step", "epoch"] * 2
    plain = net()
    assert train(plain, TrainConfig(epochs=2), whole, objective) == history
    assert torch.equal(plain[0].weight, model[0].weight)


def test_an_epoch_that_diverges_is_not_reported_as_done() -> None:
    def spoilt(model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        loss, logits = objective(model, x, y, epoch)
        return loss * (math.nan if epoch == 1 else 1), logits

    done: list[int] = []
    with pytest.raises(Diverged):
        train(net(), TrainConfig(epochs=3), whole, spoilt, after_epoch=lambda m: done.append(1))
    assert done == [1]


def test_the_history_holds_means_over_the_samples_of_each_epoch() -> None:
    model, config = net(), TrainConfig(epochs=3, lr=1e-30, momentum=0, weight_decay=0)
    x, y = toy()
    history = train(model, config, whole, objective)
    logits = torch.cat([model.train()(part) for part in x.split(24)])
    parts = [
        F.cross_entropy(model(part), labels, reduction="sum")
        for part, labels in zip(x.split(24), y.split(24), strict=True)
    ]
    for epoch, row in enumerate(history):
        assert (row.epoch, row.lr) == (epoch, learning_rate(config, epoch))
        assert row.loss == pytest.approx(float(sum(parts).detach()) / 64, rel=1e-5)
        assert row.accuracy == pytest.approx(float((logits.argmax(1) == y).double().mean()))


def test_accuracy_on_soft_targets_is_of_their_largest_class() -> None:
    x, y = toy()
    soft = F.one_hot(y, 2) * 0.2 + 0.4

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield x, soft

    hard = train(net(), TrainConfig(epochs=1), lambda epoch: iter([(x, y)]), objective)
    assert train(net(), TrainConfig(epochs=1), batches, objective)[0].accuracy == hard[0].accuracy


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_divergence(bad: float) -> None:
    def spoilt(model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        loss, logits = objective(model, x, y, epoch)
        return loss + (bad if epoch == 1 else 0), logits

    with pytest.raises(Diverged, match=rf"the training loss became {bad} in epoch 2"):
        train(net(), TrainConfig(epochs=4), whole, spoilt)


@pytest.mark.parametrize(
    ("reached", "y", "ok"),
    [
        (1.0, [0, 1], True),
        (0.5, [0, 1], False),
        (0.60, [0, 1] * 50, False),
        (0.64, [0, 1] * 50, False),
        (0.66, [0, 1] * 50, True),
        (0.11, list(range(10)) * 100, False),
        (0.15, list(range(10)) * 100, True),
        (0.95, [0] * 90 + [1] * 10, False),
        (1.0, [0] * 90 + [1] * 10, True),
        (1.0, [0, 0], True),
    ],
)
def test_better_than_chance(reached: float, y: list[int], ok: bool) -> None:
    if ok:
        check_better_than_chance(reached, torch.tensor(y))
        return
    with pytest.raises(Diverged, match=rf"accuracy {reached:.3f} is no better than chance"):
        check_better_than_chance(reached, torch.tensor(y))


def image_set() -> TensorImages:
    x = torch.randint(0, 256, (9, 1, 8, 8), dtype=torch.uint8, generator=draws())
    return TensorImages(x, torch.arange(9) % 3)


def test_image_batches_are_shuffled_and_drawn_from_the_generator() -> None:
    images, config = image_set(), TrainConfig(batch_size=4, augment=("crop", "flip"))
    epochs = [list(image_batches(images, config, SPACE, CPU, draws(seed))) for seed in (1, 1, 2)]
    assert [len(y) for _, y in epochs[0]] == [4, 4, 1]
    for (x, y), (again_x, again_y) in zip(epochs[0], epochs[1], strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)
    assert not torch.equal(epochs[0][0][0], epochs[2][0][0])
    order = torch.cat([y for _, y in epochs[0]])
    assert sorted(order.tolist()) == sorted(images.y.tolist())
    assert not torch.equal(order, images.y)


@pytest.mark.parametrize("names", [(), ("flip",), ("resized-crop",), ("dsa",)])
def test_image_batches_apply_the_named_augmentations(names: tuple[str, ...]) -> None:
    images = image_set()
    config = TrainConfig(batch_size=9, augment=names, crop_scale=0.2)
    ((x, y),) = image_batches(images, config, SPACE, CPU, draws(1))
    generator = draws(1)
    scale = 0.2 if names == ("resized-crop",) else None
    ((expected, labels),) = images.batches(9, CPU, generator, scale)
    if names == ("flip",):
        expected = flip(expected, generator)
    if names == ("dsa",):
        expected = in_space(expected, draw_dsa(DSA_OPS, 9, generator), SPACE)
    assert torch.equal(x, expected)
    assert torch.equal(y, labels)
    plain = next(images.batches(9, CPU, draws(1)))[0]
    assert torch.equal(x, plain) is (names == ())
