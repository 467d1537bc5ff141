"""The work of MTT, TESLA and MAT: experts on real images, and a set that leads a student along.

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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guard.artifacts import ArtifactStore
from guard.checkpoint import NOWHERE, Checkpoint, Images, Stateful
from guard.data.datasets import load_data
from guard.data.dsa import DsaDraw, apply_dsa, draw_dsa
from guard.data.spec import ImageSpec
from guard.device import setup
from guard.distilled import save_part
from guard.errors import Diverged
from guard.methods.mtt import MTT, Expert, TrajectoryMatching
from guard.methods.mtt.published import Walk
from guard.methods.mtt.trajectory import GRADIENTS, Gradient, call, flat_parameters, tesla
from guard.methods.start import initial_images
from guard.models.networks import Classifier
from guard.models.saving import load_model
from guard.seeding import derive, generator
from guard.training.pieces import within_memory
from guard.training.teacher import TeacherTraining, most_pieces

MOMENTUM = 0.5
LARGEST_RATE_CHANGE = 0.1
"""Of log α in one iteration: our bound, where the published rate could turn negative."""


class Snapshots:
    """What an expert leaves: its parameters, or their moving average, after every epoch."""

    STATE = ("theta", "average", "kept", "distances", "epoch_start")

    def __init__(self, model: nn.Module, ema: float) -> None:
        self.ema, self.theta = ema, flat_parameters(model)
        self.average = self.theta.clone()
        self.kept = [self.average.cpu()]
        self.distances: list[float] = []
        self.epoch_start = self.theta

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        """w ← a·w + (1 − a)·θ."""
        self.theta = flat_parameters(model)
        self.average = self.theta.lerp(self.average, self.ema)

    def after_epoch(self, model: nn.Module) -> None:
        self.kept.append(self.average.cpu())
        self.distances.append(float((self.theta - self.epoch_start).norm()))
        self.epoch_start = self.theta

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.theta.device
        for name in self.STATE:
            value = state[name]
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)

    def metrics(self) -> dict[str, float]:
        """Mean distance between epochs, of what is kept and of the parameters themselves."""
        pairs = zip(self.kept[1:], self.kept[:-1], strict=True)
        kept = [float((later - earlier).norm()) for later, earlier in pairs]
        return {
            "epoch_distance": sum(kept) / len(kept),
            "raw_epoch_distance": sum(self.distances) / len(self.distances),
        }


def train_expert(stage: Expert, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """One expert. Writes `snapshots.safetensors`, theta (epochs + 1, P), and the last snapshot as a
    model. Raises Diverged if that is not finite or no better than chance."""
    seed = derive(stage.seed, "expert", stage.number)

    def run(pieces: int) -> Mapping[str, Any]:
        training = TeacherTraining.of(stage, store, seed, stage.adversary, pieces)
        snapshots = Snapshots(training.model, stage.ema)
        checkpoint, also = Checkpoint(store.scratch(stage)), {"snapshots": snapshots}
        history = training.run(checkpoint, snapshots.after_step, snapshots.after_epoch, also)
        nn.utils.vector_to_parameters(snapshots.average, training.model.parameters())
        training.check()
        summary = training.save(history, folder)
        save_file({"theta": torch.stack(snapshots.kept)}, folder / "snapshots.safetensors")
        return {**summary, "metrics": {**summary["metrics"], **snapshots.metrics()}}

    return within_memory(run, most_pieces(stage))


@dataclass(frozen=True)
class Trajectory:
    """The snapshots of one expert, read one at a time."""

    folder: Path

    def snapshot(self, epoch: int, device: torch.device) -> Tensor:
        """Parameters after `epoch` epochs, (P,)."""
        with safe_open(self.folder / "snapshots.safetensors", framework="pt") as file:
            theta: Tensor = file.get_slice("theta")[epoch]
        return theta.to(device)


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
    start = initial_images(config.init, splits, ipc, model.normalize, stage.seed, device)
    matching = Matching(
        config=config,
        model=model,
        experts=experts,
        spec=splits.spec,
        ipc=ipc,
        seed=stage.seed,
        device=device,
    )
    u, rate, metrics = matching.run(start.flatten(0, 1), Checkpoint(store.scratch(stage)))
    images = matching.pixels(u).clamp(0, 1)
    facts: dict[str, Any] = {"learned_lr": rate}
    if config.soft_labels:
        facts["soft_labels"] = by_class(matching.mean_labels(u), ipc)
    save_part(folder, by_class(images, ipc), splits.spec, **facts)
    return {"metrics": {**metrics, "learned_lr": rate}}


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

    def run(
        self, u: Tensor, checkpoint: Checkpoint = NOWHERE
    ) -> tuple[Tensor, float, dict[str, float]]:
        """(u (K·ipc, C, H, W), α, metrics) after the last iteration. Raises Diverged if the loss or
        u is not finite."""
        walk = self.walk
        u = u.clone().requires_grad_()
        optimizer = torch.optim.SGD([u], walk.lr_images, momentum=MOMENTUM)
        rate = LearnedRate(walk.rate, walk.lr_rate)
        loss = math.nan
        state: dict[str, Stateful] = {"images": Images(u), "optimizer": optimizer, "rate": rate}
        for number in range(checkpoint.restore(state) or 0, self.config.iterations):
            draws = generator(self.seed, "trajectory", number)
            expert = self.experts[_below(len(self.experts), draws)]
            start = _below(walk.max_start, draws)
            theta = expert.snapshot(start, self.device)
            target = expert.snapshot(start + walk.expert_epochs, self.device)
            step_loss = self.step_loss(self.targets(u, target), draws)
            alpha = torch.tensor(rate.value, device=self.device)
            found = self.gradient(step_loss, theta, target, u, alpha, walk.student_steps)
            loss = float(found.loss)
            finite = math.isfinite(loss) and math.isfinite(float(found.rate))
            if not finite or not bool(found.images.isfinite().all()):
                raise Diverged(f"the matching loss became {loss} in iteration {number + 1}")
            u.grad = found.images
            optimizer.step()
            rate.step(float(found.rate))
            with torch.no_grad():
                u.copy_(self.model.normalize.project(u))
            if number + 1 < self.config.iterations:
                checkpoint.offer(state, number + 1)
        if not bool(u.isfinite().all()):
            raise Diverged("the images are not finite after the last step")
        return u.detach(), rate.value, {"matching_loss": loss}

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
        classes = torch.arange(self.spec.num_classes, device=self.device)
        return classes.repeat_interleave(self.ipc)

    def mean_labels(self, u: Tensor) -> Tensor:
        """Probabilities of the images, averaged over the experts at the last epoch that is matched,
        (K·ipc, K). Our choice: the published code keeps those of the last expert it drew."""
        last = self.walk.epochs_needed
        total = torch.zeros(len(u), self.spec.num_classes, device=self.device)
        for expert in self.experts:
            total += self.targets(u, expert.snapshot(last, self.device))
        return total / len(self.experts)

    def step_loss(self, targets: Tensor, draws: torch.Generator) -> Any:
        """The student's loss by step, as a `StepLoss` of theta (P,) and u (K·ipc, C, H, W): its
        batch and augmentation are drawn here, once."""
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
            x = u[indices] if draw is None else apply_dsa(u[indices], draw)
            return F.cross_entropy(call(self.model.network, theta, x), targets[indices])

        return loss


def _below(count: int, draws: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draws))
