"""The work of experts: networks that leave a snapshot of each epoch of their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.checkpoint import Checkpoint
from guard.methods.mtt.experts import Expert
from guard.methods.mtt.trajectory import flat_parameters
from guard.seeding import derive
from guard.training.looks import take_statistics
from guard.training.pieces import within_memory
from guard.training.teacher import TeacherTraining, most_pieces


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
        if stage.ema and stage.model.has_batchnorm:
            take_statistics(training.model, training.splits.train, training.device)
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
