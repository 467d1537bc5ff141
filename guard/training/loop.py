"""The one supervised loop: teachers and students are trained by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from guard.checkpoint import NOWHERE, Checkpoint, Stateful
from guard.config import TrainConfig
from guard.data.augment import Augmenter, Space
from guard.data.images import ImageSet
from guard.errors import Diverged
from guard.group import ALONE, Group
from guard.models.synchronized import unsynchronized

Batch = tuple[Tensor, Tensor]
"""Inputs and whatever the loss compares the logits with."""
NOTHING: Mapping[str, Stateful] = {}
Objective = Callable[[nn.Module, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(model, inputs, targets, epoch) -> (loss to minimise, logits)."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Means over the batches of one epoch. `accuracy`: of the training batches as seen."""

    epoch: int
    lr: float
    loss: float
    accuracy: float


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch (from 0): linear warm-up from lr/100, then the schedule."""
    if epoch < config.warmup_epochs:
        return config.lr * (0.01 + 0.99 * epoch / config.warmup_epochs)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * (0.1 if epoch > config.epochs // 2 else 1.0)
    progress = (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)
    stretch = 2 if config.schedule == "half-cosine" else 1
    return config.lr * (1 + math.cos(math.pi * progress / stretch)) / 2


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    decayed = [p for p in parameters if p.ndim > 1 or config.decay_all]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {
            "params": [p for p in parameters if p.ndim <= 1 and not config.decay_all],
            "weight_decay": 0.0,
        },
    ]
    return torch.optim.AdamW(groups, config.lr)


def train(
    model: nn.Module,
    config: TrainConfig,
    batches: Callable[[int], Iterator[Batch]],
    objective: Objective,
    after_step: Callable[[nn.Module], None] = lambda model: None,
    after_epoch: Callable[[nn.Module], None] = lambda model: None,
    checkpoint: Checkpoint = NOWHERE,
    also: Mapping[str, Stateful] = NOTHING,
    until: int | None = None,
    group: Group = ALONE,
) -> list[Epoch]:
    """Train in place on `batches(epoch)` for every epoch and return the history.

    Targets are those of `named`. Training goes on from the checkpoint if there is one; also: what
    else changes from epoch to epoch. until: epochs after which it is broken off, its state saved.
    group: who sees the same batches, and whose objectives are summands of the loss, with the logits
    of their shares; all have the same model and the same history then. Raises Diverged when the
    loss is not finite.
    """
    optimizer = build_optimizer(config, model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, **also}
    history = [Epoch(**row) for row in checkpoint.restore(parts) or ()]
    if not group.agrees(len(history), parameters[0].device):
        raise OSError("not every process could read the state that they were to go on from")
    for epoch in range(len(history), config.epochs if until is None else until):
        lr = learning_rate(config, epoch)
        for parameter_group in optimizer.param_groups:
            parameter_group["lr"] = lr
        model.train()
        loss_sum, correct, count = torch.zeros(()), torch.zeros(()), 0
        for x, target in batches(epoch):
            loss, logits = objective(model, x, target, epoch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward(inputs=parameters)
            loss, share = loss.detach(), group.share(len(x))
            labels = named(target)[share.rows]
            hits = share.once * (logits.detach().argmax(dim=1) == labels).sum().to(loss)
            summed_up(group, model, parameters, loss, hits)
            optimizer.step()
            after_step(model)
            loss_sum = loss_sum.to(x.device) + loss * len(x)
            correct = correct.to(x.device) + hits
            count += len(x)
        loss_mean, accuracy_mean = float(loss_sum) / count, float(correct) / count
        if not math.isfinite(loss_mean):
            raise Diverged(f"the training loss became {loss_mean} in epoch {epoch + 1}")
        history.append(Epoch(epoch=epoch, lr=lr, loss=loss_mean, accuracy=accuracy_mean))
        after_epoch(model)
        checkpoint.offer(parts, [vars(row) for row in history])
    if until is not None:
        checkpoint.save(parts, [vars(row) for row in history])
    return history


def named(target: Tensor) -> Tensor:
    """The class (B,) of each target: labels (B,), distributions or logits (B, K), or several of
    them (B, n, K), the first of which counts."""
    if target.ndim == 1:
        return target
    return (target if target.ndim == 2 else target[:, 0]).argmax(dim=1)


def summed_up(
    group: Group, model: nn.Module, parameters: Iterable[nn.Parameter], *numbers: Tensor
) -> None:
    """Replace gradients and numbers by their sums over the group, and running statistics that each
    process has of its own by their means: in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    own = unsynchronized(model) if group.size > 1 else []
    for statistic in own:
        statistic /= group.size
    group.sum([*gradients, *own, *numbers])


def image_batches(
    images: ImageSet,
    config: TrainConfig,
    space: Space,
    device: torch.device,
    draws: torch.Generator,
) -> Iterator[Batch]:
    """One epoch of augmented batches of real images, everything drawn from `draws`. space: what
    their network sees."""
    crop_scale = config.crop_scale if "resized-crop" in config.augment else None
    others = tuple(name for name in config.augment if name != "resized-crop")
    augment = replace(Augmenter.of(config, space), names=others)
    for x, y in images.batches(config.batch_size, device, draws, crop_scale):
        yield augment(x, draws), y


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterator[Batch]) -> float:
    """Share of samples that the model gets right, in evaluation mode."""
    model.eval()
    correct = count = 0
    for x, y in batches:
        correct += int((model(x).argmax(dim=1) == y).sum())
        count += len(y)
    return correct / count


def check_better_than_chance(reached: float, y: Tensor) -> None:
    """Raises Diverged unless `reached` beats a constant prediction on `y` by three standard errors
    of its binomial share. y: labels (N,)."""
    chance = float(torch.bincount(y).max()) / len(y)
    bound = chance + 3 * math.sqrt(chance * (1 - chance) / len(y))
    if not reached > min(bound, 1 - 1 / len(y)):
        raise Diverged(f"validation accuracy {reached:.3f} is no better than chance ({chance:.3f})")
