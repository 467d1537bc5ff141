"""Networks trained on the real images: teachers, experts, and the control that uses everything."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from guard.artifacts import ArtifactStore, MissingInput
from guard.checkpoint import Checkpoint, Draws, Stateful
from guard.config import ComputeConfig, DataConfig, ModelConfig, RegularizerConfig, TrainConfig
from guard.data.datasets import load_data
from guard.data.images import ImageSet, Splits
from guard.device import setup
from guard.group import ALONE, Group
from guard.models.compiling import compiled, eager
from guard.models.input_layer import load_whitening
from guard.models.networks import Classifier, build_model
from guard.models.precision import as_fast_as
from guard.models.saving import save_model
from guard.models.synchronized import synchronize
from guard.processes import in_processes
from guard.seeding import derive, generator
from guard.stages import Squeeze, Whitening
from guard.training.kept import OnTheWay
from guard.training.line_search import Perturbations, mebibytes
from guard.training.loop import (
    NOTHING,
    Batch,
    Epoch,
    accuracy,
    check_better_than_chance,
    image_batches,
    train,
)
from guard.training.losses import TrainingLoss
from guard.training.penalties import Regularizer
from guard.training.pieces import within_memory

NO_ADVERSARY = RegularizerConfig.named("none")
STATE = "state"
"""Of an early look: the folder of what the squeeze goes on from."""
Watch = Callable[[nn.Module], None]


def ignore(model: nn.Module) -> None:
    """Watches nothing."""


class Trains(Protocol):
    """A stage that trains a network on real images."""

    @property
    def whitening(self) -> Whitening | None: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def model(self) -> ModelConfig: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def regularizer(self) -> RegularizerConfig: ...
    @property
    def eps(self) -> float: ...
    @property
    def compute(self) -> ComputeConfig: ...


@dataclass(frozen=True, kw_only=True)
class TeacherTraining:
    """A network, and what the stage says of its training."""

    model: Classifier
    model_config: ModelConfig
    config: TrainConfig
    loss: TrainingLoss
    splits: Splits
    seed: int
    device: torch.device
    group: Group

    @classmethod
    def of(
        cls,
        stage: Trains,
        store: ArtifactStore,
        seed: int,
        adversary: RegularizerConfig,
        pieces: int = 1,
        group: Group = ALONE,
    ) -> TeacherTraining:
        """The untrained network of a stage; pieces: of a batch, in which a penalty is computed;
        group: who trains it together."""
        device = setup(stage.compute)
        splits = load_data(stage.data)
        model = build_model(stage.model, splits.spec, derive(seed, "teacher"))
        load_whitening(model.normalize, stage.whitening, store)
        as_fast_as(model.to(device), stage.compute)
        if not (stage.regularizer.active or adversary.active):
            compiled(model, stage.compute)
        return cls(
            model=model,
            model_config=stage.model,
            config=stage.train,
            loss=TrainingLoss(stage.regularizer, stage.eps, adversary, pieces=pieces, group=group),
            splits=splits,
            seed=seed,
            device=device,
            group=group,
        )

    def run(
        self,
        checkpoint: Checkpoint,
        after_step: Watch = ignore,
        after_epoch: Watch = ignore,
        also: Mapping[str, Stateful] = NOTHING,
        until: int | None = None,
    ) -> list[Epoch]:
        """also: what the watches keep. until: as `train` has it. Raises Diverged if the loss is not
        finite."""
        draws = generator(self.seed, "regularizer")
        images = self.splits.train.near(self.device).shared_by(self.group)
        kept = self.kept(images)
        if kept is not None:
            also = {"perturbations": kept, **also}

        def batches(epoch: int) -> Iterator[Batch]:
            order = generator(self.seed, "real", epoch)
            space = self.model.normalize
            if kept is not None:
                return kept.batches(self.config, space, self.device, order)
            return image_batches(images, self.config, space, self.device, order)

        def objective(model: nn.Module, x: Tensor, y: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
            if kept is None:
                return self.loss(model, x, y, epoch, draws)
            return self.loss.of(model, x, kept.attacked(model, x, y), y, epoch, draws)

        return train(
            self.model,
            self.config,
            batches,
            objective,
            after_step,
            after_epoch,
            checkpoint,
            {"draws": Draws(draws), **also},
            until,
            self.group,
        )

    def kept(self, images: ImageSet) -> Perturbations | None:
        """What the attack keeps of the training images, if it keeps anything."""
        attack = self.loss.attack
        if attack is None or not attack.keeps:
            return None
        starts = generator(self.seed, "perturbations")
        return Perturbations(
            attack, self.loss.radius, images, self.shape, self.device, starts, self.group
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image, (C, H, W)."""
        spec = self.splits.spec
        return (spec.channels, spec.image_size, spec.image_size)

    def check(self) -> None:
        """Raises Diverged if the network is no better than chance."""
        validation = self.splits.validation
        with eager(self.model):  # one pass is not worth compiling
            reached = accuracy(self.model, validation.batches(500, self.device))
        check_better_than_chance(reached, validation.y)

    def save(self, history: list[Epoch], folder: Path) -> dict[str, Any]:
        """Save the network and say how it went."""
        save_model(self.model, self.model_config, self.splits.spec, folder)
        last = history[-1]
        metrics = {"train_loss": last.loss, "train_accuracy": last.accuracy}
        if self.loss.pieces > 1:
            metrics["penalty_pieces"] = float(self.loss.pieces)
        if self.loss.attack is not None and self.loss.attack.keeps:
            metrics["kept_mebibytes"] = mebibytes(len(self.splits.train), self.shape)
        return {
            "metrics": metrics,
            "history": [vars(epoch) for epoch in history],
        }


def squeeze(stage: Squeeze, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Train a network. Raises Diverged if it is not finite or no better than chance."""
    return trained_by(squeeze_together, stage, store, folder)


def squeeze_together(
    stage: Squeeze, store: ArtifactStore, folder: Path, pieces: int, group: Group
) -> Mapping[str, Any]:
    """What one process of a group does of `squeeze`."""
    training = teacher_training(stage, store, pieces, group)
    if not stage.keeps:
        history = training.run(begun(stage, store, group))
        if group.rank > 0:
            return {}
        training.check()
        return training.save(history, folder)
    checkpoint = Checkpoint(store.scratch(stage), writes=group.rank == 0)
    kept = OnTheWay(training.config.epochs, checkpoint, writes=group.rank == 0)
    history = training.run(checkpoint, after_epoch=kept.note, also={"kept": kept})
    if group.rank > 0:
        return {}
    training.check()
    kept.copy_to(folder)
    return training.save(history, folder)


Trainer = Callable[[Squeeze, ArtifactStore, Path, int, Group], Mapping[str, Any]]
"""(stage, store, folder, pieces of a batch, group) -> the summary, of the first process. It alone
writes: what the others have is the same."""


def trained_by(
    trainer: Trainer, stage: Squeeze, store: ArtifactStore, folder: Path
) -> Mapping[str, Any]:
    """What the trainer gives in as many processes as the stage has, and as many pieces as it
    takes. Raises what it raises, and ProcessLost if one of several processes ends."""

    def run(pieces: int) -> Mapping[str, Any]:
        work = partial(trainer, stage, store, folder, pieces)
        if stage.train.processes == 1:
            return work(ALONE)
        return in_processes(work, stage.train.processes, stage.compute.device)

    return within_memory(run, most_pieces(stage))


def teacher_training(
    stage: Squeeze, store: ArtifactStore, pieces: int, group: Group
) -> TeacherTraining:
    """The untrained network of a squeeze, with the BatchNorm that several processes train."""
    training = TeacherTraining.of(stage, store, stage.seed, NO_ADVERSARY, pieces, group)
    if group.size > 1 and stage.train.batchnorm == "synchronized":
        synchronize(training.model, group)
    return training


def begun(stage: Squeeze, store: ArtifactStore, group: Group = ALONE) -> Checkpoint:
    """What a squeeze goes on from: its own last state, or that of an earlier look at it. The first
    process alone writes."""
    earlier = []
    for look in reversed(stage.looks):
        with contextlib.suppress(MissingInput):
            earlier.append(store.read(look).path / STATE)
    return Checkpoint(store.scratch(stage), earlier=earlier, writes=group.rank == 0)


def most_pieces(stage: Trains) -> int:
    """In how many pieces the penalty of a batch can be computed: 1 where that would change it."""
    config = stage.regularizer
    penalty = Regularizer(config, stage.eps)
    alone = penalty.splits(has_batchnorm=stage.model.has_batchnorm)
    return math.ceil(config.fraction * stage.train.batch_size) if alone else 1
