"""Relabel and student training: natural training on the distilled set.

The batches of an epoch (order, augmentation, mixing) are a pure function of (recipe, seed, epoch),
so `relabel` and the student replay the same ones and only logits are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guard.artifacts import Artifact, ArtifactStore
from guard.checkpoint import Checkpoint
from guard.config import StudentConfig
from guard.data.augment import Augmenter, Space, mix
from guard.device import setup
from guard.distilled import DistilledSet
from guard.models.input_layer import first_layer, load_whitening
from guard.models.networks import build_model, folded
from guard.models.precision import as_fast_as
from guard.models.saving import load_model, save_model
from guard.seeding import derive, generator
from guard.stages import Relabel, Student
from guard.training.loop import train

FILE_BYTES, RESIDENT_BYTES = 2**26, 2**31


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the batches that a student sees."""

    seed: int
    batch_size: int
    augment: Augmenter
    mix: str
    mix_alpha: float

    @classmethod
    def of(cls, config: StudentConfig, space: Space) -> Recipe:
        """space: what the student sees of pixels."""
        augmenter = Augmenter.of(config.train, space)
        return cls(
            seed=config.seed,
            batch_size=config.train.batch_size,
            augment=augmenter,
            mix=config.mix,
            mix_alpha=config.mix_alpha,
        )

    def batches(
        self, images: Tensor, targets: Tensor, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The augmented batches of an epoch: images (b, C, H, W) and, mixed like them, the
        distributions (b, K) of `targets` (N, K), on the device of `targets`."""
        draws, device = generator(self.seed, "student-batches", epoch), targets.device
        for indices in torch.randperm(len(images), generator=draws).split(self.batch_size):
            rows = images[indices.to(images.device)].to(device)
            x, target = self.augment(rows, draws), targets[indices.to(device)]
            if self.mix != "none":
                x, order, weight = mix(x, self.mix, self.mix_alpha, draws)
                target = weight * target + (1 - weight) * target[order.to(x.device)]
            yield x, target


def relabel(stage: Relabel, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """The teacher's logits for every augmented batch of every epoch: float16 (N, K) an epoch, in
    the order in which the student sees the images. The teacher is in evaluation mode."""
    device = setup(stage.compute)
    distilled = DistilledSet.load(store.read(stage.distilled).path).expanded()
    layer = first_layer(stage.whitening, distilled.spec, store).to(device)
    recipe = Recipe.of(stage.student, layer)
    teacher = load_model(store.read(stage.teacher).path, device)
    teacher = as_fast_as(folded(teacher), stage.compute)
    images, hard = near(distilled.images, device), distilled.one_hot().to(device)
    epochs = stage.student.train.epochs
    together = epochs_in_a_file(len(images), distilled.spec.num_classes)
    checkpoint = Checkpoint(store.scratch(stage))

    @torch.no_grad()
    def write(first: int, path: Path) -> None:
        logits = {
            str(epoch): torch.cat([teacher(x) for x, _ in recipe.batches(images, hard, epoch)])
            for epoch in range(first, min(first + together, epochs))
        }
        save_file({epoch: values.half().cpu() for epoch, values in logits.items()}, path)

    names = {first: f"logits-{first:05d}.safetensors" for first in range(0, epochs, together)}
    made = {name: checkpoint.file(name, partial(write, first)) for first, name in names.items()}
    for name, path in made.items():
        path.rename(folder / name)
    return {"metrics": {}, "epochs_in_a_file": together}


def near(images: Tensor, device: torch.device) -> Tensor:
    """The images (N, C, H, W) on the device, where they are no more than 2 GiB; else where they
    are: in their file, from which batches are read."""
    small = images.numel() * images.element_size() <= RESIDENT_BYTES
    return images.to(device) if small else images


def epochs_in_a_file(count: int, num_classes: int) -> int:
    """As many as keep a file of logits of so many images, and the memory that writing it takes,
    near 64 MiB."""
    return max(FILE_BYTES // (2 * count * num_classes), 1)


@dataclass(frozen=True)
class SoftLabels:
    """The logits that `relabel` wrote, read an epoch at a time."""

    folder: Path
    epochs_in_a_file: int

    @classmethod
    def of(cls, relabelled: Artifact) -> SoftLabels:
        return cls(relabelled.path, relabelled.summary["epochs_in_a_file"])

    def epoch(self, epoch: int) -> Tensor:
        """float32 (N, K), in the order of the epoch's batches."""
        first = epoch - epoch % self.epochs_in_a_file
        path = self.folder / f"logits-{first:05d}.safetensors"
        with safe_open(path, framework="pt") as file:
            logits: Tensor = file.get_tensor(str(epoch)).float()
        return logits


def distillation_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(softmax(target/T) ‖ softmax(logits/T)), mean over the batch; both (B, K) logits."""
    log_student = F.log_softmax(logits / temperature, dim=1)
    log_teacher = F.log_softmax(target / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def train_student(stage: Student, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Train a fresh network on the distilled set: on a teacher's logits where the stage has them,
    else on the set's own labels. Raises Diverged if the loss is not finite."""
    device = setup(stage.compute)
    config = stage.student
    distilled = DistilledSet.load(store.read(stage.distilled).path).expanded()
    model = build_model(stage.model, distilled.spec, derive(config.seed, "student"))
    load_whitening(model.normalize, stage.whitening, store)
    as_fast_as(model.to(device), stage.compute)
    images = near(distilled.images, device)
    own = distilled.soft_labels if config.labels != "hard" else None
    targets = (distilled.one_hot() if own is None else own).to(device)
    recipe = Recipe.of(config, model.normalize)
    logits_of_epoch = None
    if stage.labels is not None:
        logits_of_epoch = SoftLabels.of(store.read(stage.labels)).epoch
    scale = config.temperature**2 if config.scale_by_t2 else 1.0

    def objective(model: nn.Module, x: Tensor, target: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        logits = model(x)
        if logits_of_epoch is None:
            return F.cross_entropy(logits, target), logits
        return scale * distillation_loss(logits, target, config.temperature), logits

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        replayed = recipe.batches(images, targets, epoch)
        if logits_of_epoch is None:
            yield from replayed
            return
        logits = logits_of_epoch(epoch).to(device).split(config.train.batch_size)
        for (x, _), target in zip(replayed, logits, strict=True):
            yield x, target

    run = config.train
    if config.learned_lr:
        run = replace(run, lr=distilled.card["learned_lr"])
    history = train(model, run, batches, objective, checkpoint=Checkpoint(store.scratch(stage)))
    save_model(model, stage.model, distilled.spec, folder)
    return {
        "metrics": {"train_loss": history[-1].loss, "train_accuracy": history[-1].accuracy},
        "history": [vars(epoch) for epoch in history],
    }
