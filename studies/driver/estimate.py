"""How much work a trial is, before anything runs.

Unit: the forward pass of one image through the network; an input gradient costs 1 more, a weight
gradient 2. Each kind of stage says itself what it costs (`guard.stage.Stage.passes`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from guard.data.images import Splits
from guard.models.networks import build_model
from guard.stage import Sizes
from guard.trial import TrialConfig
from guard.trial_stages import plan

TIMED_BATCH, TIMED_PASSES = 64, 5


@dataclass(frozen=True)
class Work:
    """Image passes of one trial, by kind of stage."""

    passes: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.passes.values())


def estimate(config: TrialConfig, splits: Splits) -> Work:
    """An upper bound: every evaluated image is taken to survive every attack."""
    sizes = Sizes(
        train=len(splits.train),
        splits={"validation": len(splits.validation), "test": len(splits.test)},
        num_classes=splits.spec.num_classes,
    )
    passes: dict[str, float] = {}
    for stage in plan(config):
        passes[stage.name] = passes.get(stage.name, 0) + stage.passes(sizes)
    return Work({name: count for name, count in passes.items() if count})


def seconds_per_pass(config: TrialConfig, splits: Splits) -> float:
    """Measured here: the forward pass of one image in a batch of 64, on this config's device."""
    torch.set_num_threads(config.compute.num_threads)
    spec = splits.spec
    model = build_model(config.distilled_model, spec).to(config.compute.device).eval()
    x = torch.rand(TIMED_BATCH, spec.channels, spec.image_size, spec.image_size)
    x = x.to(config.compute.device)
    with torch.no_grad():
        float(model(x).sum())
        start = time.perf_counter()
        for _ in range(TIMED_PASSES):
            float(model(x).sum())
    return (time.perf_counter() - start) / (TIMED_PASSES * TIMED_BATCH)
