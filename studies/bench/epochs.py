"""Epochs of a teacher's training by one process and by a group, in turn, on images of noise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from guard.checkpoint import NOWHERE
from guard.config import ComputeConfig, RegularizerConfig
from guard.data.images import ImageSet, Splits, TensorImages
from guard.data.spec import ImageSpec
from guard.device import setup
from guard.group import ALONE, Group
from guard.models.networks import build_model
from guard.models.synchronized import synchronize
from guard.training.losses import TrainingLoss
from guard.training.teacher import TeacherTraining
from guard.trial import TrialConfig
from studies.bench.measuring import timed
from studies.bench.noise import CLASSES, spec_of
from studies.presets import PRESETS

SIZES: Mapping[str, tuple[int, int]] = {
    "digits": (1, 8),
    "cifar10-small": (3, 32),
    "cifar10": (3, 32),
}
"""Channels and side of the images of each preset that can be measured."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training that is measured."""

    preset: str
    penalised: bool
    batchnorm: str
    steps: int
    """Of an epoch."""
    rounds: int
    compute: ComputeConfig

    def training(self, group: Group) -> TeacherTraining:
        """As the preset's squeeze says, for one epoch a run."""
        config, (channels, side) = PRESETS[self.preset]().config, SIZES[self.preset]
        draws = torch.Generator().manual_seed(0)
        count = self.steps * config.squeeze.batch_size
        pixels = torch.randint(256, (count, channels, side, side), generator=draws)
        images = TensorImages(pixels.byte(), torch.arange(count) % CLASSES)
        penalty = replace(config.regularizer, weight_warmup_epochs=0)
        regularizer = penalty if self.penalised else RegularizerConfig.named("none")
        trial = replace(config, regularizer=regularizer, compute=self.compute)
        made = training(trial, spec_of(channels, side), images, group)
        if group.size > 1 and self.batchnorm == "synchronized":
            synchronize(made.model, group)
        return made


def training(
    trial: TrialConfig, spec: ImageSpec, images: ImageSet, group: Group = ALONE
) -> TeacherTraining:
    """The training of a trial's teacher on the images, for one epoch a run."""
    device = setup(trial.compute)
    return TeacherTraining(
        model=build_model(trial.model, spec, 0).to(device),
        model_config=trial.model,
        config=replace(trial.squeeze, epochs=1, warmup_epochs=0),
        loss=TrainingLoss(trial.regularizer, trial.evaluation.eps, group=group),
        splits=Splits(spec=spec, train=images, validation=images, test=images, sha256=""),
        seed=0,
        device=device,
        group=group,
    )


def measured(cases: Sequence[Case], group: Group) -> list[list[str]]:
    """A row a case; what one process of the group does for it."""
    return [row(case, group) for case in cases]


def row(case: Case, group: Group) -> list[str]:
    together = case.training(group)
    alone = case.training(ALONE) if group.rank == 0 else None
    seconds: list[tuple[float, float]] = []
    for _ in range(case.rounds + 1):
        wait(group, together.device)
        by_one = epoch(alone) if alone is not None else 0.0
        wait(group, together.device)
        seconds.append((by_one, epoch(together)))
    if alone is None:
        return []
    ones, alls = zip(*seconds[1:], strict=True)  # the first round warms up
    ratio = statistics.median(one / every for one, every in zip(ones, alls, strict=True))
    ms = [f"{1000 * statistics.median(own) / case.steps:.1f}" for own in (ones, alls)]
    loss = "with the penalty" if case.penalised else "plain"
    return [case.preset, loss, case.batchnorm, *ms, f"{ratio:.2f}"]


def wait(group: Group, device: torch.device) -> None:
    """For the others."""
    group.add(torch.zeros(1, device=device))


def epoch(training: TeacherTraining) -> float:
    """Seconds of an epoch."""
    return timed(lambda: training.run(NOWHERE), training.device)
