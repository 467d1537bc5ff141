"""How much work a trial is, before anything runs.

Unit: the forward pass of one image through the network; an input gradient costs 1 more, a weight
gradient 2, an exact curvature gradient 12 (6 for each of its two points).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from guard.config import DCConfig, RegularizerConfig, TrialConfig, expanded, passes_of
from guard.config.evaluation import parts_of
from guard.data.images import Splits
from guard.methods import METHODS
from guard.methods.dc.matching import loops
from guard.models.networks import build_model
from guard.pipeline import plan

PENALTY_PASSES = {"none": 0, "gradient-norm": 6, "loss-difference": 9, "curvature": 12}
MATCHED_PASSES, STUDENT_STEP_PASSES = 9, 12
"""Of a synthetic image: weight gradient and its own gradient in the image; with the walk before."""
TIMED_BATCH, TIMED_PASSES = 64, 5


@dataclass(frozen=True)
class Work:
    """Image passes of each stage of one trial."""

    passes: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.passes.values())


def loss_passes(regularizer: RegularizerConfig) -> float:
    """Passes that a training image takes beyond the 3 of a plain step."""
    if not regularizer.active:
        return 0
    if regularizer.attacks:
        return 2 * regularizer.steps + (0 if regularizer.kind == "adversarial" else 3)
    return PENALTY_PASSES[regularizer.kind] * regularizer.fraction


def estimate(config: TrialConfig, splits: Splits) -> Work:
    """An upper bound: every evaluated image is taken to survive every attack."""
    images = len(splits.train)
    names = {stage.name for stage in plan(config)}
    step = 3 + loss_passes(config.regularizer)
    passes = {}
    if "squeeze" in names:
        passes["squeeze"] = images * config.squeeze.epochs * step
    classes = splits.spec.num_classes
    if config.method in ("dc", "dsa"):
        matching = config.dc if config.method == "dc" else config.dsa
        passes["gradient-matching"] = gradient_matching(matching, config.ipc, classes, step)
    elif config.method in ("mtt", "tesla", "mat"):
        trajectories = {"mtt": config.mtt, "tesla": config.tesla, "mat": config.mat}[config.method]
        experts = trajectories.experts
        expert_step = step + loss_passes(experts.adversary)
        passes["expert"] = experts.count * images * experts.train.epochs * expert_step
        batch = trajectories.batch_size or config.ipc * classes
        steps = trajectories.iterations * trajectories.student_steps
        passes["trajectory-matching"] = steps * batch * STUDENT_STEP_PASSES
    elif config.method in ("sre2l", "cda"):
        recover = config.sre2l if config.method == "sre2l" else config.cda
        recovered = -(-config.ipc // recover.chunk) * recover.chunk * classes
        passes["recover"] = recovered * recover.iterations * 2
    if "student" in names:
        seen = config.ipc * classes * config.student.train.epochs
        passes |= {"relabel": seen} if "relabel" in names else {}
        passes["student"] = seen * 3
    return Work({**passes, "evaluate": evaluation(config, splits)})


def gradient_matching(matching: DCConfig, ipc: int, classes: int, step: float) -> float:
    """Passes of DC's or DSA's images, real and synthetic, and of the networks' own training."""
    outer, inner = loops(matching, ipc)
    a_class = matching.batch_size * step + ipc * MATCHED_PASSES
    between = (outer - 1) * inner * ipc * 3
    return matching.iterations * classes * (outer * a_class + between)


def evaluation(config: TrialConfig, splits: Splits) -> float:
    """Passes of the teacher's cheap evaluation on validation and of the student's on its splits."""
    own = config.evaluation
    limit = own.max_samples or len(splits.test) + len(splits.train)
    teacher = 1 + sum(map(passes_of, expanded(("search",))))
    student = 1 + sum(passes_of(name) for _, name in parts_of(own))
    count = sum(min(len(splits.named(split)), limit) for split in own.splits)
    checked = min(len(splits.validation), limit) if METHODS[config.method].teachers(config) else 0
    return checked * teacher + count * student


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
