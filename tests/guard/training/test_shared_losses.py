"""A training step that several processes share is that of one, to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from penalised import KINDS, bn_net, samples, smooth_net
from torch import Tensor, nn

from guard.config import RegularizerConfig, TrainConfig
from guard.config.regularizers import KINDS as ALL
from guard.group import Group
from guard.models.batchnorm import batchnorms
from guard.training.loop import Epoch, train
from guard.training.losses import TrainingLoss
from helpers import draws
from together import in_threads, joined, synchronized

ATTACKS = tuple(kind for kind, row in ALL.items() if row.attacks)
Step = tuple[Tensor, list[Tensor], list[Tensor], Tensor]
"""Loss, gradients, buffers, logits."""


def step(model: nn.Module, config: RegularizerConfig, count: int, **options: Any) -> Step:
    x, y = samples(count)
    loss, logits = TrainingLoss(config, 0.1, **options)(model, x, y, 0, draws())
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), list(gradients), list(model.buffers()), logits.detach()


def check(config: RegularizerConfig, count: int, size: int, net: Any, **options: Any) -> None:
    model = net().train()
    copies = synchronized(model, size)

    def work(group: Group) -> Step:
        return step(joined(copies, group), config, count, group=group, **options)

    found = in_threads(work, size)
    loss, gradients, buffers, logits = step(model, config, count, **options)
    torch.testing.assert_close(sum(own[0] for own in found), loss, rtol=1e-11, atol=0)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    summed = [torch.cat([gradient.flatten() for gradient in own[1]]) for own in found]
    assert (sum(summed) - flat).norm() < 1e-10 * flat.norm()
    for own in found:
        for value, wanted in zip(own[2], buffers, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    rows = [own[3] for own in found[: 1 if count < size else None]]
    torch.testing.assert_close(torch.cat(rows), logits, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("count", [9, 2, 1])
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("bn", ["eval", "frozen-batch", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_penalty(kind: str, bn: str, fraction: float, count: int) -> None:
    """Ragged shares, and penalties and batches of fewer images than processes."""
    settings = {"kind": kind, "weight": 0.7, "h": 0.4, "bn": bn, "fraction": fraction}
    check(RegularizerConfig.from_dict(settings), count, 3, bn_net)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_batchs_mean_loss(kind: str) -> None:
    """GUARD's released codes: a penalty of the batch's mean is no mean over images."""
    settings = {"kind": kind, "weight": 0.7, "scale": "batch-mean", "fraction": 0.5, "power": 1}
    check(RegularizerConfig.from_dict(settings), 9, 2, bn_net)


@pytest.mark.parametrize("count", [9, 1])
@pytest.mark.parametrize("kind", ATTACKS)
def test_every_attack(kind: str, count: int) -> None:
    config = RegularizerConfig.from_dict({"kind": kind, "weight": 2, "steps": 2})
    check(config, count, 2, bn_net)


@pytest.mark.parametrize("pieces", [2, 50])
def test_in_pieces(pieces: int) -> None:
    config = RegularizerConfig.from_dict({"weight": 0.7, "h": 0.4, "fraction": 0.8})
    check(config, 9, 2, bn_net, pieces=pieces)


def test_without_batchnorm() -> None:
    check(RegularizerConfig.from_dict({"weight": 0.7, "h": 0.4}), 9, 3, smooth_net)


def batches(epoch: int) -> Any:
    x, y = samples(23, seed=epoch)
    return zip(x.split(9), y.split(9), strict=True)


def trained(model: nn.Module, group: Group) -> list[Epoch]:
    config = RegularizerConfig.from_dict({"weight": 0.1, "fraction": 0.5})
    loss, generator = TrainingLoss(config, group=group), draws()
    run = TrainConfig(epochs=3, batch_size=9, lr=0.05, optimizer="adamw")
    return train(model, run, batches, lambda *args: loss(*args, generator), group=group)


def state(model: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("size", [2, 3])
def test_training_together_is_training_alone(size: int) -> None:
    model = bn_net()
    copies = synchronized(model, size)
    histories = in_threads(lambda group: trained(joined(copies, group), group), size)
    history = trained(model, Group())
    assert all(own == histories[0] for own in histories)
    assert all(torch.equal(state(own), state(copies[0])) for own in copies)
    torch.testing.assert_close(state(copies[0]), state(model), rtol=1e-9, atol=1e-10)
    for own, wanted in zip(histories[0], history, strict=True):
        assert own.loss == pytest.approx(wanted.loss, rel=1e-6)
        assert own.accuracy == pytest.approx(wanted.accuracy, rel=1e-6)


def test_local_batchnorm_keeps_the_means_of_what_each_process_saw() -> None:
    copies, (x, y) = [bn_net().train() for _ in range(2)], samples(8)
    alone = [bn_net().train() for _ in range(2)]
    for own, part in zip(alone, x.split(4), strict=True):
        own(part)
    run = TrainConfig(epochs=1, batch_size=8, lr=1e-30, momentum=0, weight_decay=0)

    def work(group: Group) -> list[Epoch]:
        loss = TrainingLoss(RegularizerConfig.named("none"), group=group)
        return train(
            copies[group.rank],
            run,
            lambda epoch: iter([(x, y)]),
            lambda *args: loss(*args, draws()),
            group=group,
        )

    in_threads(work, 2)
    for name in ("running_mean", "running_var"):
        first, second = (getattr(batchnorms(own)[0], name) for own in alone)
        assert not torch.equal(first, second)
        for own in copies:
            torch.testing.assert_close(getattr(batchnorms(own)[0], name), (first + second) / 2)


def test_processes_that_go_on_from_different_states_are_refused() -> None:
    def work(group: Group) -> str:
        class Kept:
            def restore(self, parts: object) -> list[dict[str, float]] | None:
                row = {"epoch": 0, "lr": 1.0, "loss": 1.0, "accuracy": 0.5}
                return [row] if group.rank else None

            def offer(self, parts: object, progress: object) -> None:
                raise AssertionError

        run = TrainConfig(epochs=2)
        with pytest.raises(OSError, match="not every process could read the state"):
            train(bn_net(), run, batches, lambda *args: None, checkpoint=Kept(), group=group)  # type: ignore[arg-type]
        return "refused"

    assert in_threads(work, 2) == ["refused", "refused"]
