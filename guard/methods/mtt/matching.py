"""The work of MTT, TESLA, MAT and DATM: a set that leads a student along the way of experts.

Cazenavette et al., CVPR 2022 (arXiv 2203.11932); Cui et al., ICML 2023 (arXiv 2211.10586); Lai et
al., 2025 (arXiv 2503.12069). u: synthetic images behind the network's input layer, (K·ipc, C, H,
W), class after class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.artifacts import ArtifactStore
from guard.checkpoint import NOWHERE, Checkpoint, Images, Stateful
from guard.data.datasets import load_data
from guard.data.dsa import DsaDraw, apply_dsa, draw_dsa
from guard.data.spec import ImageSpec
from guard.device import setup
from guard.distilled import save_part
from guard.errors import Diverged
from guard.methods.mtt import MTT, TrajectoryMatching
from guard.methods.mtt.labels import (
    LearnedLabels,
    first_logits,
    known_first,
    packed,
    unpacked,
)
from guard.methods.mtt.published import Walk
from guard.methods.mtt.snapshots import Trajectory
from guard.methods.mtt.trajectory import GRADIENTS, Gradient, call, tesla
from guard.methods.start import initial_images
from guard.models.networks import Classifier
from guard.models.saving import load_model
from guard.seeding import generator

MOMENTUM = 0.5
LARGEST_RATE_CHANGE = 0.1
"""Of log α in one iteration: our bound, where the published rate could turn negative."""


class LearnedRate:
    """The student's learning rate α, learned with its images and positive at all times.

    SGD with momentum on log α, scaled so that a small step moves α as published (by −lr·velocity).
    """

    def __init__(self, rate: float, lr: float) -> None:
        self.value, self.lr, self.velocity = rate, lr, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.velocity = state["value"], state["velocity"]

    def step(self, gradient: float) -> None:
        self.velocity = MOMENTUM * self.velocity + gradient
        change = self.lr * self.velocity / self.value
        self.value *= math.exp(-min(max(change, -LARGEST_RATE_CHANGE), LARGEST_RATE_CHANGE))


def match_trajectories(
    stage: TrajectoryMatching, store: ArtifactStore, folder: Path
) -> Mapping[str, Any]:
    """Optimise a set and a learning rate by trajectory matching; the last iterate is kept. Raises
    Diverged if the loss is not finite."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    experts = [Trajectory(store.read(expert).path) for expert in stage.experts]
    model = load_model(experts[0].folder, device).train()
    config, ipc = stage.matching, stage.ipc
    known = None
    if config.start_known and config.init == "real":
        theta = experts[0].snapshot(config.walk(ipc).epochs_needed, device)
        known = known_first(model, theta, splits.train, device)
    start = initial_images(
        config.init, splits, ipc, model.normalize, stage.seed, device, first=known
    )
    matching = Matching(
        config=config,
        model=model,
        experts=experts,
        spec=splits.spec,
        ipc=ipc,
        seed=stage.seed,
        device=device,
    )
    found = matching.run(start.flatten(0, 1), Checkpoint(store.scratch(stage)))
    images = matching.pixels(found.u).clamp(0, 1)
    facts: dict[str, Any] = {"learned_lr": found.rate}
    labels = matching.mean_labels(found.u) if config.soft_labels else found.labels
    if labels is not None:
        facts["soft_labels"] = by_class(labels, ipc)
    save_part(folder, by_class(images, ipc), splits.spec, **facts)
    return {"metrics": {**found.metrics, "learned_lr": found.rate}}


@dataclass(frozen=True, kw_only=True)
class Matched:
    """What a run ends with."""

    u: Tensor
    """(K·ipc, C, H, W)."""
    labels: Tensor | None
    """Probabilities (K·ipc, K) where they were learned."""
    rate: float
    """α."""
    metrics: dict[str, float]


def by_class(rows: Tensor, ipc: int) -> Tensor:
    """(K·ipc, …), class after class, to (ipc, K, …)."""
    folded: Tensor = rows.unflatten(0, (-1, ipc))
    return folded.transpose(0, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class Matching:
    """One run over the experts' trajectories."""

    config: MTT
    model: Classifier
    """A network of the experts' kind, in training mode; its parameters are not used."""
    experts: Sequence[Trajectory]
    spec: ImageSpec
    ipc: int
    seed: int
    device: torch.device

    @property
    def walk(self) -> Walk:
        return self.config.walk(self.ipc)

    def run(self, u: Tensor, checkpoint: Checkpoint = NOWHERE) -> Matched:
        """The set after the last iteration. Raises Diverged if the loss or u is not finite."""
        walk, config = self.walk, self.config
        labels = self.learned_labels(u) if config.lr_labels else None
        u = u.clone().requires_grad_()
        average = u.detach().clone()
        optimizer = torch.optim.SGD([u], walk.lr_images, momentum=MOMENTUM)
        rate = LearnedRate(walk.rate, walk.lr_rate)
        loss = math.nan
        state: dict[str, Stateful] = {"images": Images(u), "optimizer": optimizer, "rate": rate}
        state |= {"average": Images(average)} if config.image_ema else {}
        state |= {} if labels is None else {"labels": labels}
        for number in range(checkpoint.restore(state) or 0, self.config.iterations):
            draws = generator(self.seed, "trajectory", number)
            expert = self.experts[_below(len(self.experts), draws)]
            latest = config.max_start_at(number, walk)
            start = config.min_start + _below(latest - config.min_start, draws)
            theta = expert.snapshot(start, self.device)
            target = expert.snapshot(start + walk.expert_epochs, self.device)
            step_loss = self.step_loss(self.targets(u, target), draws)
            alpha = torch.tensor(rate.value, device=self.device)
            learned = u if labels is None else packed(u, labels.logits)
            found = self.gradient(step_loss, theta, target, learned, alpha, walk.student_steps)
            loss = float(found.loss)
            finite = math.isfinite(loss) and math.isfinite(float(found.rate))
            if not finite or not bool(found.images.isfinite().all()):
                raise Diverged(f"the matching loss became {loss} in iteration {number + 1}")
            if labels is None:
                u.grad = found.images
            else:
                u.grad, of_labels = unpacked(found.images, u.shape)
                labels.step(of_labels)
            optimizer.step()
            rate.step(float(found.rate))
            with torch.no_grad():
                u.copy_(self.model.normalize.project(u))
                average.copy_(u.lerp(average, config.image_ema))
            if number + 1 < self.config.iterations:
                checkpoint.offer(state, number + 1)
        if not bool(u.isfinite().all()):
            raise Diverged("the images are not finite after the last step")
        return Matched(
            u=average if config.image_ema else u.detach(),
            labels=None if labels is None else labels.probabilities,
            rate=rate.value,
            metrics={"matching_loss": loss},
        )

    def learned_labels(self, u: Tensor) -> LearnedLabels:
        """What the labels of u (K·ipc, C, H, W) start as."""
        last = self.walk.epochs_needed
        thetas = [expert.snapshot(last, self.device) for expert in self.experts]
        logits = first_logits(self.model, thetas, u, self.classes)
        return LearnedLabels(logits, self.config.lr_labels)

    @property
    def classes(self) -> Tensor:
        """(K·ipc,)."""
        every = torch.arange(self.spec.num_classes, device=self.device)
        return every.repeat_interleave(self.ipc)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the images behind the input layer."""
        spec = self.spec
        count = spec.num_classes * self.ipc
        return (count, spec.channels, spec.image_size, spec.image_size)

    @property
    def gradient(self) -> Gradient:
        if self.config.published_half:
            return partial(tesla, published_half=True)
        return GRADIENTS[self.config.gradient]

    def pixels(self, u: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] units of u (N, C, H, W)."""
        images: Tensor = self.model.normalize.inverse(u)
        return images

    def targets(self, u: Tensor, target: Tensor) -> Tensor:
        """What students learn: labels (K·ipc,), or the target expert's probabilities (K·ipc, K)."""
        if self.config.soft_labels:
            with torch.no_grad():
                return call(self.model.network, target, u).softmax(dim=1)
        return self.classes

    def mean_labels(self, u: Tensor) -> Tensor:
        """Probabilities of the images, averaged over the experts at the last epoch that is matched,
        (K·ipc, K). Our choice: the published code keeps those of the last expert it drew."""
        last = self.walk.epochs_needed
        total = torch.zeros(len(u), self.spec.num_classes, device=self.device)
        for expert in self.experts:
            total += self.targets(u, expert.snapshot(last, self.device))
        return total / len(self.experts)

    def step_loss(self, targets: Tensor, draws: torch.Generator) -> Any:
        """The student's loss by step, as a `StepLoss` of theta (P,) and u (K·ipc, C, H, W), or of
        both u and learned labels as `packed` has them: its batch and augmentation are drawn here,
        once."""
        count = len(targets)
        walk, size = self.walk, self.walk.batch_size or count
        steps: list[tuple[Tensor, DsaDraw | None]] = []
        while len(steps) < walk.student_steps:
            for indices in torch.randperm(count, generator=draws).split(size):
                ops = self.config.augment
                draw = draw_dsa(ops, len(indices), draws) if ops else None
                steps.append((indices.to(self.device), draw))

        def loss(theta: Tensor, u: Tensor, number: int) -> Tensor:
            indices, draw = steps[number]
            x, target = u[indices], targets[indices]
            if self.config.lr_labels:
                x, logits = unpacked(x, self.shape)
                target = logits.softmax(dim=1)
            x = x if draw is None else apply_dsa(x, draw)
            return F.cross_entropy(call(self.model.network, theta, x), target)

        return loss


def _below(count: int, draws: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draws))
