"""The steps in which each method makes its images, as they are computed, on images of noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.config import RegularizerConfig, StudentConfig
from guard.data.images import Splits, TensorImages
from guard.methods.dm import DM
from guard.methods.dm.matching import Matching
from guard.methods.mtt.labels import packed, unpacked
from guard.methods.mtt.trajectory import GRADIENTS, call, flat_parameters
from guard.methods.rded.mosaic import Choice
from guard.methods.sre2l import SRe2L
from guard.methods.sre2l.classwise import ClassBatchNormLoss
from guard.methods.sre2l.recover import augmented
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.methods.start import ready_to_match
from guard.models.input_layer import input_layer
from guard.models.modes import statistics_of
from guard.models.networks import folded, frozen
from guard.models.precision import as_fast_as
from guard.training.distillation import LabelLoss
from guard.training.losses import TrainingLoss
from studies.bench.measuring import Computation
from studies.bench.noise import CLASSES
from studies.bench.training_steps import Bench

DISTRIBUTIONS = ("dm", "idm", "ncfm", "rome", "c2r")
IPC = 10
SCORED_STEPS = 10
"""Of an attack on RDED's crops."""


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images_of(bench: Bench) -> Splits:
    """Two batches of noise a class, and as many images as a set starts from at least."""
    count = max(2 * bench.batch_size, IPC)
    shape = (CLASSES * count, *bench.x.shape[1:])
    x = torch.randint(256, shape, generator=draws(), dtype=torch.uint8)
    train = TensorImages(x, torch.arange(CLASSES).repeat_interleave(count))
    return Splits(spec=bench.spec, train=train, validation=train, test=train, sha256="")


def distribution_matching(bench: Bench) -> Mapping[str, Computation]:
    """One step of each method with ten classes: real batches of this size, ten images each, on one
    network. The networks' own training and C²R's ranking, once a pass, are not in it."""
    splits = images_of(bench)
    return {
        name: matching_step(bench, getattr(bench.config, name), splits) for name in DISTRIBUTIONS
    }


def matching_step(bench: Bench, method: DM, splits: Splits) -> Computation:
    networks = method.networks and replace(method.networks, initial=1)
    model_config = method.model or bench.config.model
    made = Matching(
        config=replace(method, batch_size=bench.batch_size, networks=networks),
        model_config=model_config,
        loss=TrainingLoss(
            RegularizerConfig.named("none"), bench.config.evaluation.eps, method.adversary
        ),
        splits=splits,
        layer=input_layer(model_config, bench.spec).to(bench.device),
        ipc=IPC,
        seed=0,
        device=bench.device,
    )
    model, u = made.build(0), made.start()
    ready_to_match(model, splits, made.members, draws(), bench.device)

    def compute() -> None:
        with frozen(model):
            loss, _ = made.loss_of(model, 0.5, u, 1, draws())
            torch.autograd.grad(loss, u)

    return compute


def recovery(bench: Bench) -> Mapping[str, Computation]:
    """One step of recovering this many images of one class, towards the running statistics or those
    of the class, and of CDA's views of them."""
    model = as_fast_as(bench.model(bench.config.model).eval(), bench.config.compute)
    u = bench.x.clone().requires_grad_()
    own = [(mean[None], variance[None]) for mean, variance in statistics_of(model, bench.x)]

    def step(bn_losses: BatchNormLoss, view: SRe2L) -> Computation:
        def compute() -> None:
            with frozen(model), bn_losses as bn_loss:
                logits = model.of_normalized(augmented(u, view, 0, draws()))
                torch.autograd.grad(F.cross_entropy(logits, bench.y) + bn_loss.take(), u)

        return compute

    plain = SRe2L()
    return {
        "running statistics": step(BatchNormLoss(model, 10.0), plain),
        "of each class": step(ClassBatchNormLoss(model, 10.0, own), plain),
        "running statistics, cda": step(BatchNormLoss(model, 10.0), bench.config.cda),
    }


def scoring(bench: Bench) -> Mapping[str, Computation]:
    """RDED's scores of this many crops of one class, as they are and under attack."""
    teacher = folded(bench.model(bench.config.model).eval())

    def step(attack_steps: int) -> Computation:
        choice = Choice(
            config=replace(bench.config.rded, tiles=1, attack_steps=attack_steps),
            splits=images_of(bench),
            teacher=teacher,
            hardness=None,
            eps=bench.config.evaluation.eps,
            seed=0,
            device=bench.device,
        )
        return lambda: choice.scores(bench.x, 0, draws())

    return {"as they are": step(0), f"attacked, {SCORED_STEPS} steps": step(SCORED_STEPS)}


def trajectories(bench: Bench, steps: int, more: int) -> Mapping[str, Computation]:
    """The gradient of trajectory matching by each of its ways, of a walk of more steps, and of the
    labels too (DATM)."""
    model = bench.model(bench.config.mtt.model)
    theta = flat_parameters(model)
    target = theta + 0.01 * torch.randn(theta.shape, generator=draws()).to(bench.device)
    rate = torch.tensor(0.01, device=bench.device)
    shape = bench.x.shape
    both = packed(bench.x, torch.zeros(len(bench.x), CLASSES, device=bench.device))

    def of_images(theta: Tensor, x: Tensor, number: int) -> Tensor:
        return F.cross_entropy(call(model, theta, x), bench.y)

    def of_both(theta: Tensor, rows: Tensor, number: int) -> Tensor:
        x, logits = unpacked(rows, shape)
        return F.cross_entropy(call(model, theta, x), logits.softmax(dim=1))

    def step(name: str, count: int) -> Computation:
        return lambda: GRADIENTS[name](of_images, theta, target, bench.x, rate, count)

    ways = {f"{name}, {steps} steps": step(name, steps) for name in GRADIENTS}
    with_labels = partial(GRADIENTS["adjoint"], of_both, theta, target, both, rate, steps)
    return {
        **ways,
        f"adjoint and labels, {steps} steps": with_labels,
        f"adjoint, {more} steps": step("adjoint", more),
    }


def taught(bench: Bench) -> Mapping[str, Computation]:
    """A batch's labels by a teacher, and a student's step on them: natural and defended."""
    teacher = folded(bench.model(bench.config.model).eval())
    model = as_fast_as(bench.model(bench.config.student_model), bench.config.compute)
    parameters, loss_of = list(model.parameters()), LabelLoss(config=StudentConfig())
    with torch.no_grad():
        logits = teacher(bench.x)
    answers = logits.softmax(dim=1)
    of_logits = partial(loss_of, target=loss_of.target(logits, answers))

    def labelled() -> None:
        with torch.no_grad():
            teacher(bench.x)

    def student(regularizer: RegularizerConfig) -> Computation:
        defended = TrainingLoss(regularizer, bench.config.evaluation.eps)

        def compute() -> None:
            loss, _ = defended(model, bench.x, answers, 0, draws(), of_logits)
            torch.autograd.grad(loss, parameters)

        return compute

    natural, rslad = (RegularizerConfig.named(name) for name in ("none", "rslad"))
    return {
        "natural": student(natural),
        f"rslad, {rslad.steps} steps": student(rslad),
        "labels by a teacher": labelled,
    }
