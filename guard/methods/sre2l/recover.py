"""SRe2L's and CDA's work: images that are recovered from teachers.

Yin et al., "Squeeze, Recover and Relabel", NeurIPS 2023 (arXiv 2306.13092). From real patches and
back towards them: SRe2L++ (arXiv 2501.07575) and FADRM (NeurIPS 2025).
u: images in the teacher's normalised space, (N, C, H, W); K classes; one chunk is N = m·K images.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from guard.artifacts import ArtifactStore
from guard.checkpoint import NOWHERE, Checkpoint, Draws, Stateful
from guard.data.augment import crop_windows, flip, resized_crop, roll
from guard.data.spec import ImageSpec
from guard.data.tiles import resized
from guard.device import setup
from guard.distilled import save_part
from guard.errors import Diverged
from guard.methods.sre2l import Recover, SRe2L
from guard.methods.sre2l.classwise import ClassBatchNormLoss, by_model, of_classes, read
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models.batchnorm import Statistics
from guard.models.input_layer import InputLayer
from guard.models.networks import Classifier, frozen, members_of
from guard.models.precision import as_fast_as
from guard.models.saving import load_model, load_spec
from guard.seeding import generator

MAX_CLASSES_AT_ONCE = 100
"""Classes that are recovered together, as in SRe2L's code."""


def recover(stage: Recover, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """One chunk of images per class. Writes images (m, K, C, H, W) in [0, 1]."""
    device = setup(stage.compute)
    config, teacher_path = stage.recover, store.read(stage.teacher).path
    teachers, spec = members_of(load_model(teacher_path, device)), load_spec(teacher_path)
    for teacher in teachers:
        as_fast_as(teacher, stage.compute).to(memory_format=torch.channels_last)
    checkpoint = Checkpoint(store.scratch(stage))
    patches = None if stage.patches is None else patches_of(stage, store)
    known = None if stage.statistics is None else read(store.read(stage.statistics), device)
    statistics = None if known is None else by_model(known, teachers)

    def write(first: int, path: Path) -> None:
        classes = torch.arange(first, min(first + MAX_CLASSES_AT_ONCE, spec.num_classes))
        draws = generator(stage.seed, "recover", stage.chunk, first)
        y, own = classes.repeat(config.chunk), checkpoint.at(str(first))
        aims = Aims(
            patches=None if patches is None else patches[:, classes].flatten(0, 1).to(device),
            statistics=statistics and [of_classes(own, classes.to(device)) for own in statistics],
        )
        images, losses = recover_images(teachers, spec, y, config, draws, own, aims)
        folded = images.unflatten(0, (config.chunk, len(classes))).cpu().contiguous()
        ends = {name: torch.tensor(loss, dtype=torch.float64) for name, loss in losses.items()}
        save_file({"images": folded, **ends}, path)

    firsts = range(0, spec.num_classes, MAX_CLASSES_AT_ONCE)
    files = [checkpoint.file(f"{first}.classes", partial(write, first)) for first in firsts]
    groups = [load_file(file) for file in files]
    save_part(folder, torch.cat([group.pop("images") for group in groups], dim=1), spec)
    means = {name: sum(float(group[name]) for group in groups) for name in groups[0]}
    return {"metrics": {name: total / len(groups) for name, total in means.items()}}


def patches_of(stage: Recover, store: ArtifactStore) -> Tensor:
    """Of the chunk's images (m, K, C, H, W), again from the first where the set ends within it."""
    assert stage.patches is not None
    images = load_file(store.read(stage.patches).path / "images.safetensors")["images"]
    own = stage.chunk * stage.recover.chunk + torch.arange(stage.recover.chunk)
    return images[own % len(images)]


@dataclass(frozen=True, kw_only=True)
class Aims:
    """What images are recovered towards, beside the teachers' own knowledge."""

    patches: Tensor | None = None
    """Real ones in [0, 1], (N, C, H, W): what each image starts as, and is mixed with."""
    statistics: Sequence[Statistics] | None = None
    """Teacher by teacher, of each class of the group."""


NO_AIMS = Aims()


def recover_images(
    teachers: Sequence[Classifier],
    spec: ImageSpec,
    y: Tensor,
    config: SRe2L,
    draws: torch.Generator,
    checkpoint: Checkpoint = NOWHERE,
    aims: Aims = NO_AIMS,
) -> tuple[Tensor, dict[str, float]]:
    """Optimise one image per label of `y` (N,), some labels over and over, and return them in
    [0, 1] with the last losses.

    Minimises CE + r_bn·Σ_l w_l(‖μ_l − running μ_l‖ + ‖σ²_l − running σ²_l‖) over the input of every
    BatchNorm layer l; the last iterate is kept. Teachers, which have the same first layer, take
    turns of a step each. Raises Diverged if the loss is not finite.
    """
    layer = teachers[0].normalize
    if aims.patches is None:
        shape = (len(y), spec.channels, spec.image_size, spec.image_size)
        start = torch.randn(shape, generator=draws).to(layer.mean.device)
    else:
        start = layer.project(layer(aims.patches))
    if config.sizes:
        start = layer(resized(layer.inverse(start), config.sizes[0]))
    iterate, y = Iterate(start, config.lr), y.to(layer.mean.device)
    loss_ce = loss_bn = start.new_zeros(())
    state: dict[str, Stateful] = {"iterate": iterate, "draws": Draws(draws)}
    done, begins = checkpoint.restore(state) or 0, phase_begins(config)
    with taking_turns(teachers, config, aims) as turns:
        for step in range(done, config.iterations):
            teacher, bn_loss = turns[step % len(turns)]
            if step in begins:
                iterate.begin(between(iterate.u.detach(), layer, config, begins[step], aims))
            for group in iterate.optimizer.param_groups:
                group["lr"] = config.lr * (1 + math.cos(math.pi * step / config.iterations)) / 2
            logits = teacher.of_normalized(augmented(iterate.u, config, step, draws))
            loss_ce, loss_bn = F.cross_entropy(logits, y), bn_loss.take()
            loss = loss_ce + config.bn_weight * loss_bn
            iterate.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            iterate.optimizer.step()
            with torch.no_grad():
                iterate.u.copy_(layer.project(iterate.u))
            if step + 1 < config.iterations:
                checkpoint.offer(state, step + 1)
    last = {"label_loss": float(loss_ce.detach()), "bn_loss": float(loss_bn.detach())}
    u = iterate.u.detach()
    if not all(map(math.isfinite, last.values())) or not bool(u.isfinite().all()):
        raise Diverged(f"the recovery loss became {last['label_loss']} + {last['bn_loss']}")
    images = layer.inverse(u).clamp(0, 1)
    return resized(images, spec.image_size) if config.sizes else images, last


class Iterate:
    """Images that are optimised, u (N, C, H, W), and Adam: both are others in each phase."""

    def __init__(self, u: Tensor, lr: float) -> None:
        self._lr = lr
        self.begin(u)

    def begin(self, u: Tensor) -> None:
        self.u = u.contiguous(memory_format=torch.channels_last).requires_grad_()
        self.optimizer = torch.optim.Adam([self.u], lr=self._lr, betas=(0.5, 0.9))

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.u.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begin(state["images"].to(self.u.device))
        self.optimizer.load_state_dict(state["optimizer"])


def phase_begins(config: SRe2L) -> dict[int, int]:
    """Step -> the phase that begins with it, for all but the first."""
    phases = range(1, config.phases)
    return {config.iterations * phase // config.phases: phase for phase in phases}


def between(u: Tensor, layer: InputLayer, config: SRe2L, phase: int, aims: Aims) -> Tensor:
    """What a phase begins with: the images u of the one before (N, C, H, W), in its size, mixed
    with their patches."""
    if not config.sizes and not config.residual:
        return u
    images, patches = layer.inverse(u), aims.patches
    if config.sizes:
        images = resized(images, config.sizes[phase])
    if patches is not None and config.residual:
        own = resized(patches, config.sizes[phase]) if config.sizes else patches
        images = (1 - config.residual) * images + config.residual * own
    return layer.project(layer(images))


@contextlib.contextmanager
def taking_turns(
    teachers: Sequence[Classifier], config: SRe2L, aims: Aims
) -> Iterator[list[tuple[Classifier, BatchNormLoss]]]:
    """Teachers without gradients of their own, each with its BatchNorm loss."""
    multiplier, scale = config.first_bn_multiplier, config.bn_scale
    with contextlib.ExitStack() as stack:
        turns = []
        for number, teacher in enumerate(teachers):
            stack.enter_context(frozen(teacher))
            if aims.statistics is None:
                bn_loss = BatchNormLoss(teacher, multiplier, scale)
            else:
                own = aims.statistics[number]
                bn_loss = ClassBatchNormLoss(teacher, multiplier, own, scale)
            turns.append((teacher, stack.enter_context(bn_loss)))
        yield turns


def augmented(u: Tensor, config: SRe2L, step: int, draws: torch.Generator) -> Tensor:
    """A view of the images u (N, C, H, W) for one step: resized crop, flip and roll, as `config`
    says."""
    together = config.crop == "batch"
    if config.crop != "none":
        count, (height, width) = 1 if together else len(u), u.shape[-2:]
        windows = crop_windows(count, smallest_crop(config, step), (height, width), draws)
        u = resized_crop(u, windows)
    if config.flip:
        u = flip(u, draws, together=together)
    if config.jitter == 0:
        return u
    return roll(u, config.jitter, draws, two_sided=config.two_sided_jitter)


def smallest_crop(config: SRe2L, step: int) -> float:
    """Smallest share of the area that a crop of this step keeps. With a curriculum it falls from 1
    to `crop_scale` over the first `milestone` of the iterations (CDA, arXiv 2311.18838)."""
    length = config.milestone * config.iterations
    if config.curriculum == "none" or step >= length:
        return config.crop_scale
    progress = step / length
    ease = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "step": 1.0}
    return config.crop_scale + (1 - config.crop_scale) * ease[config.curriculum]
