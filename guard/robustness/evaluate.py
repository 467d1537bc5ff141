"""Clean and robust accuracy, attack by attack, with the verdict on every sample kept.

An evaluation is a chain of stages, one for each (radius, attack), from small radii to large and
from cheap attacks to strong: a killed one goes on from the attack it was at. Each stage holds all
verdicts so far, so the last one says everything.

What cannot be is made impossible, sample by sample: a sample that is wrong clean is wrong under
every attack; one that is broken at a radius is broken at every larger one; the worst case is over
all attacks that ran; a perturbation outside the ball breaks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.checkpoint import NOWHERE, Checkpoint
from guard.config import EvaluationConfig
from guard.config.evaluation import UNBOUNDED, AttackAt, attacks_at
from guard.data.datasets import load_data
from guard.data.images import ImageSet
from guard.device import setup
from guard.models.compiling import compiled
from guard.models.networks import folded
from guard.models.precision import as_fast_as, in_float32
from guard.models.saving import load_model
from guard.robustness.attacks import Counted, ThreatModel, attack_images
from guard.robustness.measures import CLEAN
from guard.robustness.stages import Evaluate
from guard.robustness.verdicts import Verdicts, column, metrics, share
from guard.seeding import generator


class Found:
    """What an attack under way has found, a tensor (b,) a batch, and the passes it took."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self.wrong: list[Tensor] = []
        self.distances: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        passes = (self._counted.forward_passes, self._counted.backward_passes)
        return {"wrong": self.wrong, "distances": self.distances, "passes": passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.wrong, self.distances = state["wrong"], state["distances"]
        self._counted.forward_passes, self._counted.backward_passes = state["passes"]


def attack_once(
    model: nn.Module,
    images: ImageSet,
    at: AttackAt,
    before: Verdicts | None,
    config: EvaluationConfig,
    num_classes: int,
    device: torch.device,
    checkpoint: Checkpoint = NOWHERE,
) -> tuple[Verdicts, Counted]:
    """Run one attack of the chain after the verdicts `before` it; None: the first one, which also
    looks at the clean images. Returns all verdicts so far and the passes of the attack."""
    counted = Counted(model).eval()
    eps, name = at
    if before is None:
        before = Verdicts(clean=clean_verdicts(counted.model, images, config, device))
    bounded = name not in UNBOUNDED
    alive = before.robust(eps) if bounded and config.cascade else before.clean
    threat = ThreatModel(
        eps=eps if bounded else config.eps, num_classes=num_classes, norm=config.norm
    )
    attacked = alive.nonzero().squeeze(1)
    found = Found(counted)
    done = checkpoint.restore({"found": found}) or 0
    wrong, distances = found.wrong, found.distances
    for x, y in images.subset(attacked[done:]).batches(config.batch_size, device):
        moved = attack_images(name, counted, x, y, threat, config.seed)
        distance = threat.distances(x, moved)
        with torch.no_grad(), in_float32(model):
            is_wrong = counted(moved).argmax(dim=1) != y
        distances.append(distance.cpu())
        wrong.append((is_wrong & threat.contains(distance) if bounded else is_wrong).cpu())
        done += len(x)
        if done < len(attacked):
            checkpoint.offer({"found": found}, done)
    survived = alive.clone()
    survived[attacked] = ~torch.cat(wrong) if wrong else survived[attacked]
    lengths = dict(before.distances)
    if not bounded:
        length = torch.where(before.clean, torch.inf, 0.0)
        if wrong:
            length[attacked] = torch.where(torch.cat(wrong), torch.cat(distances), torch.inf)
        lengths[name] = length
    return Verdicts(
        clean=before.clean, survived={**before.survived, at: survived}, distances=lengths
    ), counted


@torch.no_grad()
def clean_verdicts(
    model: nn.Module, images: ImageSet, config: EvaluationConfig, device: torch.device
) -> Tensor:
    """bool (N,), on the CPU: right without an attack."""
    batches = images.batches(config.batch_size, device)
    with in_float32(model):
        return torch.cat([(model(x).argmax(dim=1) == y).cpu() for x, y in batches])


def evaluate(
    model: nn.Module,
    images: ImageSet,
    config: EvaluationConfig,
    num_classes: int,
    device: torch.device,
) -> Verdicts:
    """The whole chain at once."""
    verdicts: Verdicts | None = None
    chosen_images = chosen(images, config)
    for at in attacks_at(config):
        verdicts, _ = attack_once(model, chosen_images, at, verdicts, config, num_classes, device)
    assert verdicts is not None
    return verdicts


def chosen(images: ImageSet, config: EvaluationConfig) -> ImageSet:
    """All images, or `max_samples` of them, the same ones whatever the seed."""
    if config.max_samples is None:
        return images
    return drawn(images, config.max_samples, 0, "samples")


def drawn(images: ImageSet, count: int, seed: int, label: str) -> ImageSet:
    """At most so many images, drawn by the seed and the label, in their own order."""
    if count >= len(images):
        return images
    order = torch.randperm(len(images), generator=generator(seed, label))
    return images.subset(order[:count].sort().values)


def evaluate_stage(stage: Evaluate, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """One attack of the chain on a stored model and one split.

    The summary: `metrics`, all of them from the last stage of a chain; `passes`, forward and
    backward, of the clean images and of each attack so far.
    """
    device = setup(stage.compute)
    splits = load_data(stage.data)
    config, at = stage.evaluation, stage.attack_at
    model = load_model(store.read(stage.model).path, device)
    model = compiled(as_fast_as(folded(model), stage.compute), stage.compute)
    images = chosen(splits.named(stage.split), config)
    before, passes = None, {}
    if stage.before is None:
        passes["clean"] = [len(images), 0]
    else:
        earlier = store.read(stage.before)
        before = Verdicts.load(earlier.path / "verdicts.safetensors")
        passes = dict(earlier.summary["passes"])
    classes = splits.spec.num_classes
    checkpoint = Checkpoint(store.scratch(stage))
    verdicts, counted = attack_once(model, images, at, before, config, classes, device, checkpoint)
    verdicts.save(folder / "verdicts.safetensors")
    passes[column(at)] = [counted.forward_passes, counted.backward_passes]
    found = {CLEAN.metric: share(verdicts.clean)}
    if stage.is_last:
        forward, backward = (sum(counts) for counts in zip(*passes.values(), strict=True))
        totals = {"forward_passes": float(forward), "backward_passes": float(backward)}
        found = {**metrics(verdicts, config), **totals}
    return {"metrics": found, "passes": passes}
