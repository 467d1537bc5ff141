"""Clean and robust accuracy. A sample that is wrong clean counts as wrong under every attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from guard.artifacts import ArtifactStore, Stage
from guard.attacks import ThreatModel, build_attacks, survivors
from guard.config import EvaluationConfig
from guard.data import ImageSet
from guard.datasets import stage_data
from guard.device import setup
from guard.saving import load_model
from guard.seeding import generator


@dataclass(frozen=True)
class Verdicts:
    """Per sample and on the CPU, bool (N,): right without an attack, and under each attack."""

    clean: Tensor
    attacked: Mapping[str, Tensor]

    @property
    def robust(self) -> Tensor:
        """Right, and right under every attack of the suite."""
        return torch.stack([self.clean, *self.attacked.values()]).all(dim=0)

    def metrics(self) -> dict[str, float]:
        """Shares in [0, 1]: clean_accuracy, robust_accuracy and robust_accuracy/<attack>, and the
        number of samples."""
        named = {f"robust_accuracy/{name}": share(v) for name, v in self.attacked.items()}
        whole = {"clean_accuracy": share(self.clean), "robust_accuracy": share(self.robust)}
        return {**whole, **named, "num_samples": float(len(self.clean))}


def share(verdicts: Tensor) -> float:
    return int(verdicts.sum()) / len(verdicts)


def evaluate(
    model: nn.Module,
    images: ImageSet,
    config: EvaluationConfig,
    num_classes: int,
    device: torch.device,
) -> Verdicts:
    """Attack `model` on `images` with every attack of the suite, each on the samples that are right
    without an attack."""
    model.eval()
    threat = ThreatModel(config.eps, num_classes)
    clean: list[Tensor] = []
    attacked: dict[str, list[Tensor]] = {name: [] for name in config.attacks}
    for number, (x, y) in enumerate(chosen(images, config).batches(config.batch_size, device)):
        with torch.no_grad():
            right = model(x).argmax(dim=1) == y
        clean.append(right.cpu())
        for name, verdicts in attacked.items():
            verdict = right.clone()
            for part, attack in enumerate(build_attacks(name, model, threat)):
                if verdict.any():
                    seed = int(generator(config.seed, name, part, number).initial_seed())
                    verdict[verdict.clone()] = survivors(
                        attack, model, x[verdict], y[verdict], seed
                    )
            verdicts.append(verdict.cpu())
    return Verdicts(torch.cat(clean), {name: torch.cat(v) for name, v in attacked.items()})


def chosen(images: ImageSet, config: EvaluationConfig) -> ImageSet:
    """All images, or `max_samples` of them drawn by the seed."""
    if config.max_samples is None or config.max_samples >= len(images):
        return images
    order = torch.randperm(len(images), generator=generator(config.seed, "samples"))
    return images.subset(order[: config.max_samples].sort().values)


def evaluate_stage(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Evaluate a stored model on one split and keep the verdict on every sample."""
    device = setup(stage)
    splits = stage_data(stage)
    config = EvaluationConfig.from_dict(stage.config["evaluation"])
    model = load_model(store.path(stage.inputs["model"]), device)
    images = splits.named(stage.config["split"])
    verdicts = evaluate(model, images, config, splits.spec.num_classes, device)
    save_file({"clean": verdicts.clean, **verdicts.attacked}, folder / "verdicts.safetensors")
    return {"metrics": verdicts.metrics()}
