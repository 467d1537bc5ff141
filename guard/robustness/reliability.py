"""Whether an evaluation can be believed: cheap measurements of a model that is attacked.

Small enough to run with every trial (up to 500 passes of 64 images). What they mean is said in
`guard.robustness.flags`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.artifacts import ArtifactStore
from guard.config import EvaluationConfig
from guard.data.datasets import load_data
from guard.data.images import ImageSet
from guard.device import setup
from guard.models.networks import folded, frozen
from guard.models.precision import in_float32
from guard.models.saving import load_model
from guard.robustness.attacks import ThreatModel, attack_images
from guard.robustness.evaluate import drawn
from guard.robustness.flags import flags_of
from guard.robustness.stages import Diagnose
from guard.seeding import derive, fenced

SAMPLES, COMPARED = 64, 1000
ATTACK, RESTARTS, BLACK_BOX = "pgd20", 4, "square200"
HALF_RANGE = 0.5


def diagnose(
    model: nn.Module,
    images: ImageSet,
    config: EvaluationConfig,
    num_classes: int,
    device: torch.device,
    surrogate: nn.Module | None = None,
) -> dict[str, float]:
    """What `guard.robustness.flags` judges, on up to 64 images that the model gets right; shares of
    those.

    zero_gradients: with an input gradient of 0 in float32. restart_gain, square_gain,
    transfer_gain: broken by four more starts of PGD-20, by 200 queries of Square, by PGD-20 on the
    surrogate, but not by PGD-20. large_eps_excess: accuracy under PGD-20 at half of the pixel range
    less 1/K. random_change, state_change: largest change of an output relative to the largest
    output, with other random numbers, and with the same ones after other questions. probabilities:
    1 if every output row is one. behind_teacher: see there. flags: how many are raised.
    """
    model.eval()
    x, y = right_samples(model, images, config, device)
    found = outputs(model, x)
    if len(y):
        found |= {"zero_gradients": zero_gradients(model, x, y)}
        found |= attack_gains(model, x, y, config, num_classes, surrogate)
    if surrogate is not None:
        compared = drawn(images, COMPARED, config.seed, "compared")
        student, teacher = (accuracy(own, compared, config, device) for own in (model, surrogate))
        found["behind_teacher"] = behind_teacher(student, teacher, 1 / num_classes)
    return {**found, "flags": float(len(flags_of(found, prefix="")))}


def behind_teacher(student: float, teacher: float, chance: float) -> float:
    """Share of the teacher's accuracy above chance that the student has not; 0 under a teacher that
    is itself less than half way from chance to 1. Accuracies in [0, 1]."""
    if teacher - chance < 0.5 * (1 - chance):
        return 0.0
    return 1 - (student - chance) / (teacher - chance)


@torch.no_grad()
def accuracy(
    model: nn.Module, images: ImageSet, config: EvaluationConfig, device: torch.device
) -> float:
    """Share of the images that the model gets right, in evaluation mode."""
    model.eval()
    batches = images.batches(config.batch_size, device)
    right = [~wrong(model, x, y, config) for x, y in batches]
    return float(torch.cat(right).cpu().double().mean())


def right_samples(
    model: nn.Module, images: ImageSet, config: EvaluationConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Up to 64 images (n, C, H, W) that the model gets right, and their labels (n,)."""
    kept = []
    for x, y in drawn(images, 2 * SAMPLES, config.seed, "diagnosed").batches(
        config.batch_size, device
    ):
        with torch.no_grad(), fenced(config.seed, "diagnosed"):
            right = model(x).argmax(dim=1) == y
        kept.append((x[right], y[right]))
    x, y = (torch.cat(column)[:SAMPLES] for column in zip(*kept, strict=True))
    return x, y


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Whether the outputs for x (n, C, H, W) are a function of the input, and what kind of numbers
    they are: `random_change`, `state_change`, `probabilities`."""
    if not len(x):
        return {"random_change": 0.0, "state_change": 0.0, "probabilities": 0.0}

    def ask(x: Tensor, seed: int) -> Tensor:
        with fenced(seed, "outputs"):
            logits: Tensor = model(x)
        return logits

    first, other = ask(x, 0), ask(x, 1)
    ask(1 - x, 2)
    again = ask(x, 0)
    scale = first.abs().max().clamp(min=1e-12)
    state_change = float((again - first).abs().max() / scale)
    rows = bool((first >= 0).all()) and bool(((first.sum(dim=1) - 1).abs() < 1e-4).all())
    return {
        "random_change": 0.0 if state_change else float((other - first).abs().max() / scale),
        "state_change": state_change,
        "probabilities": float(rows),
    }


def zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of images x (n, C, H, W) whose input gradient is 0 in float32."""
    x = x.clone().requires_grad_()
    with frozen(model), fenced(0, "gradients"):
        loss = F.cross_entropy(model(x), y, reduction="sum")
        if not loss.requires_grad:
            return 1.0
        (gradient,) = torch.autograd.grad(loss, x)
    return float((gradient.flatten(1).abs().amax(dim=1) == 0).float().mean())


def attack_gains(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: EvaluationConfig,
    num_classes: int,
    surrogate: nn.Module | None,
) -> dict[str, float]:
    """What other attacks break of x (n, C, H, W), y (n,) that PGD-20 does not, and what survives at
    half of the pixel range: shares, see `diagnose`."""
    threat = ThreatModel(eps=config.eps, num_classes=num_classes, norm=config.norm)

    def broken(name: str, victim: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        moved = attack_images(name, victim, x, y, threat, seed)
        return wrong(model, moved, y, config) & threat.contains(threat.distances(x, moved))

    left = ~broken(ATTACK, model, x, y, config.seed)
    rest, count = (x[left], y[left]), len(y)
    restarted = torch.zeros_like(rest[1], dtype=torch.bool)
    for number in range(RESTARTS if len(rest[1]) else 0):
        restarted |= broken(ATTACK, model, *rest, derive(config.seed, "restart", number))
    others = {"restart_gain": restarted}
    if len(rest[1]):
        others["square_gain"] = broken(BLACK_BOX, model, *rest, config.seed)
    if surrogate is not None and len(rest[1]):
        others["transfer_gain"] = broken(ATTACK, surrogate.eval(), *rest, config.seed)
    found = {name: int(more.sum()) / count for name, more in others.items()}
    half = HALF_RANGE if config.norm == "Linf" else HALF_RANGE * x[0].numel() ** 0.5
    large = ThreatModel(eps=half, num_classes=num_classes, norm=config.norm)
    moved = attack_images(ATTACK, model, x, y, large, config.seed)
    accuracy = 1 - int(wrong(model, moved, y, config).sum()) / count
    return {**found, "large_eps_excess": accuracy - 1 / num_classes}


@torch.no_grad()
def wrong(model: nn.Module, x: Tensor, y: Tensor, config: EvaluationConfig) -> Tensor:
    """bool (n,): which images x (n, C, H, W) the model gets wrong."""
    with fenced(config.seed, "verdict"):
        verdict: Tensor = model(x).argmax(dim=1) != y
    return verdict


def diagnose_stage(stage: Diagnose, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Diagnose a stored model on one split, with the teacher, if there is one, as the surrogate."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    model, surrogate = (
        None if trained is None else folded(load_model(store.read(trained).path, device))
        for trained in (stage.model, stage.surrogate)
    )
    assert model is not None
    images, classes = splits.named(stage.split), splits.spec.num_classes
    with in_float32(model):
        found = diagnose(model, images, stage.evaluation, classes, device, surrogate)
    return {"metrics": found}
