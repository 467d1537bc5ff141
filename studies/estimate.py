"""How much work a trial is, before anything runs.

Unit: the forward pass of one image through the teacher; a weight gradient costs 2 more, an exact
curvature gradient 12 (6 for each of its two points).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from guard.config import TrialConfig
from guard.data import Splits
from guard.models import build_model

PENALTY_PASSES = {"none": 0, "gradient-norm": 6, "loss-difference": 9, "curvature": 12}
ATTACK_PASSES = {"mim": 40, "cw": 100, "square": 5000, "autoattack": 8800}
TIMED_BATCH, TIMED_PASSES = 64, 5


@dataclass(frozen=True)
class Work:
    """Image passes of each stage of one trial."""

    passes: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.passes.values())


def attack_passes(name: str) -> int:
    return 2 * int(name.removeprefix("pgd")) if name.startswith("pgd") else ATTACK_PASSES[name]


def estimate(config: TrialConfig, splits: Splits) -> Work:
    """An upper bound: every evaluated image is taken to survive every attack."""
    classes, chunk = splits.spec.num_classes, config.sre2l.chunk
    penalty = config.regularizer
    extra = PENALTY_PASSES[penalty.kind] * penalty.fraction if penalty.active else 0
    chunks = -(-config.ipc // chunk)
    student_images = config.ipc * classes * config.student.train.epochs
    limit = config.evaluation.max_samples or len(splits.test) + len(splits.train)
    evaluated = 2 * min(len(splits.validation), limit) + min(len(splits.test), limit)
    attacks = sum(attack_passes(name) for name in config.evaluation.attacks)
    return Work(
        {
            "squeeze": len(splits.train) * config.squeeze.epochs * (3 + extra),
            "recover": chunks * chunk * classes * config.sre2l.iterations * 2,
            "relabel": student_images,
            "student": student_images * 3,
            "evaluate": evaluated * (1 + attacks),
        }
    )


def seconds_per_pass(config: TrialConfig, splits: Splits) -> float:
    """Measured here: the forward pass of one image in a batch of 64, on this config's device."""
    torch.set_num_threads(config.compute.num_threads)
    spec = splits.spec
    model = build_model(config.model, spec).to(config.compute.device).eval()
    x = torch.rand(TIMED_BATCH, spec.channels, spec.image_size, spec.image_size)
    x = x.to(config.compute.device)
    with torch.no_grad():
        float(model(x).sum())
        start = time.perf_counter()
        for _ in range(TIMED_PASSES):
            float(model(x).sum())
    return (time.perf_counter() - start) / (TIMED_PASSES * TIMED_BATCH)
