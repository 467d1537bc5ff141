"""The student: a network trained on the distilled set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.checkpoint import Checkpoint, Draws, Stateful
from guard.config import StudentConfig
from guard.device import setup
from guard.distilled import DistilledSet
from guard.models.compiling import compiled
from guard.models.input_layer import load_whitening
from guard.models.networks import build_model
from guard.models.precision import as_fast_as
from guard.models.saving import save_model
from guard.portable import PortableLabels
from guard.seeding import derive, generator
from guard.stages import Student
from guard.training.average import WeightAverage
from guard.training.distillation import LabelLoss, OwnLoss
from guard.training.labels import SoftLabels
from guard.training.loop import train
from guard.training.losses import TrainingLoss
from guard.training.recipe import Recipe, near

Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
"""Of an epoch: images (b, C, H, W) and targets of a loss (b, …)."""


class Loss(Protocol):
    """Of a student's logits (b, K) and a target, a scalar."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor: ...
    def distribution(self, target: Tensor) -> Tensor:
        """(b, K): what the target says of the classes."""
        ...


def train_student(stage: Student, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Train a fresh network on the distilled set: on a teacher's logits where the stage or the set
    has them, else on the set's own labels by cross-entropy."""
    device, config = setup(stage.compute), stage.student
    distilled = DistilledSet.load(store.read(stage.distilled).path).expanded()
    model = build_model(stage.model, distilled.spec, derive(config.seed, "student"))
    load_whitening(model.normalize, stage.whitening, store)
    as_fast_as(model.to(device), stage.compute)
    if not config.regularizer.active:
        compiled(model, stage.compute)
    recipe = Recipe.of(config, model.normalize)
    parts = [store.read(part) for part in stage.relabelled]
    taught = SoftLabels.of(parts) if parts else None
    images, classes = near(distilled.images, device), distilled.one_hot().to(device)
    soft = lesson(config, distilled, recipe, taught, images, classes)
    hard = of_classes(config, recipe, images, classes)
    defended = TrainingLoss(config.regularizer, stage.eps)
    draws = generator(config.seed, "student-regularizer")

    def objective(model: nn.Module, x: Tensor, target: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        loss, _ = hard if config.phase(epoch)[0] else soft
        of_logits = partial(loss, target=target)
        return defended(model, x, loss.distribution(target), epoch, draws, of_logits)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        is_hard, number = config.phase(epoch)
        _, own = hard if is_hard else soft
        return own(number)

    run = config.train
    if config.learned_lr:
        run = replace(run, lr=distilled.card["learned_lr"])
    average = WeightAverage(model, config.ema) if config.ema else None
    kept: dict[str, Stateful] = {"draws": Draws(draws)} if config.regularizer.active else {}
    history = train(
        model,
        run,
        batches,
        objective,
        after_step=average.update if average else lambda model: None,
        checkpoint=Checkpoint(store.scratch(stage)),
        also={**kept, **({"average": average} if average else {})},
    )
    if average:
        average.give_to(model)
    save_model(model, stage.model, distilled.spec, folder)
    return {
        "metrics": {"train_loss": history[-1].loss, "train_accuracy": history[-1].accuracy},
        "history": [vars(epoch) for epoch in history],
    }


def lesson(
    config: StudentConfig,
    distilled: DistilledSet,
    recipe: Recipe,
    taught: SoftLabels | None,
    images: Tensor,
    classes: Tensor,
) -> tuple[Loss, Batches]:
    """What a student is shown of the set's images (N, C, H, W), of classes (N, K), and the loss
    that it is judged by. taught: a teacher's logits of every epoch; None: there are those of the
    set, or its own labels."""
    if taught is not None:
        return relabelled(LabelLoss(config=config), recipe, images, classes, taught)
    kept = distilled.portable
    if kept is not None and config.labels in (kept.kind, "own", "auto"):
        return portable(LabelLoss(config=config), recipe, images, classes, distilled)
    own = distilled.soft_labels if config.labels != "hard" else None
    targets = classes if own is None else own.to(classes.device)
    return OwnLoss(), partial(recipe.batches, images, targets)


def of_classes(
    config: StudentConfig, recipe: Recipe, images: Tensor, classes: Tensor
) -> tuple[Loss, Batches]:
    """What a student is shown in its hard epochs: unmixed images' classes (N, K), smoothed."""
    share = config.hard_smoothing
    smooth = (1 - share) * classes + share / classes.shape[1]
    return OwnLoss(), partial(replace(recipe, mix="none").batches, images, smooth)


def relabelled(
    loss: LabelLoss, recipe: Recipe, images: Tensor, classes: Tensor, taught: SoftLabels
) -> tuple[Loss, Batches]:
    """A teacher's logits of every epoch's batches."""

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        logits = taught.epoch(epoch).to(classes.device).split(recipe.batch_size)
        for (x, mixed), own in zip(recipe.batches(images, classes, epoch), logits, strict=True):
            yield x, loss.target(own, mixed)

    return loss, batches


def portable(
    loss: LabelLoss, recipe: Recipe, images: Tensor, classes: Tensor, distilled: DistilledSet
) -> tuple[Loss, Batches]:
    """The logits that lie in the set: of a pool's batches, or of each image, mixed like images."""
    labels = distilled.portable
    assert labels is not None
    if labels.kind == "budget":
        return loss, partial(pooled, loss, labels, images, classes, distilled)
    each = loss.mixable(labels.logits.float().to(classes.device))
    both, width = torch.cat([each, classes], dim=1), each.shape[1]

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, mixed in recipe.batches(images, both, epoch):
            yield x, loss.target(loss.unmixed(mixed[:, :width]), mixed[:, width:])

    return loss, batches


def pooled(
    loss: LabelLoss,
    labels: PortableLabels,
    images: Tensor,
    classes: Tensor,
    distilled: DistilledSet,
    epoch: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of a pool's batches."""
    for x, logits, mixed in labels.batches(images, classes, distilled.spec, epoch):
        yield x, loss.target(logits, mixed)
