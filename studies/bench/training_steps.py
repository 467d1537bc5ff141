"""The steps whose cost `studies.overhead` measures, on images of noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.config import ModelConfig, RegularizerConfig
from guard.methods.dc.gradients import ClassGradients, distance
from guard.methods.dm.losses import mean_distance
from guard.methods.mtt.trajectory import GRADIENTS, call, flat_parameters
from guard.methods.sre2l.classwise import ClassBatchNormLoss
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models.modes import statistics_of
from guard.models.networks import Classifier, build_model, features_and_logits, frozen
from guard.models.precision import as_fast_as
from guard.training.line_search import line_search
from guard.training.losses import TrainingLoss
from guard.trial import TrialConfig
from studies.bench.measuring import Computation, Cost, account, measure
from studies.bench.noise import CLASSES, spec_of

PRESETS_OWN = "the preset's penalty"
WHOLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "curvature": ("curvature", {}),
    "curvature, frozen-batch": ("curvature", {"bn": "frozen-batch"}),
    "curvature, train": ("curvature", {"bn": "train"}),
    "loss-difference": ("loss-difference", {}),
    "gradient-norm": ("gradient-norm", {}),
    "cure": ("cure", {}),
    "released-cifar": ("released-cifar", {}),
    "released-imagenet": ("released-imagenet", {}),
    "pgd-at": ("pgd-at", {}),
    "pgd-at, 10 steps": ("pgd-at", {"steps": 10}),
    "pgd-at, ls-pgd": ("pgd-at", {"ascent": "ls-pgd"}),
    "fgsm-rs": ("fgsm-rs", {}),
    "trades": ("trades", {}),
}
"""Regularizers of a whole batch: a name of RegularizerConfig, and what differs from it. ls-pgd as
it is at most: every loss has dropped."""
LONG_WALK = 5
"""How many times as many student steps the long walk has as the short one."""


class Bench:
    """The steps of one image size and batch size, and what they cost."""

    def __init__(self, config: TrialConfig, side: int, batch_size: int) -> None:
        self.config, self.batch_size = config, batch_size
        device = self.device = torch.device(config.compute.device)
        self.spec = spec_of(3, side)
        draws = torch.Generator().manual_seed(0)
        self.x = torch.rand(batch_size, 3, side, side, generator=draws).to(device)
        self.y = torch.randint(CLASSES, (batch_size,), generator=draws).to(device)
        self.title = f"{side} px, batch of {batch_size}, {device.type}"

    def rows(self, student_steps: int, rounds: int) -> list[dict[str, Any]]:
        """One row a step."""
        walks = self.trajectories(student_steps, LONG_WALK * student_steps)
        groups = {
            "training step": (self.config.model, self.training()),
            "DC's matching step": (self.config.dc.model, self.gradient_matching()),
            "DM's matching step": (self.config.dm.model, self.mean_matching()),
            "MTT's gradient": (self.config.mtt.model, walks),
        }
        if self.config.model.has_batchnorm:
            groups["SRe2L's recovery step"] = (self.config.model, self.recovery())
        found = []
        for group, (model_config, computations) in groups.items():
            forward = account(partial(self.model(model_config), self.x)).flops
            for name, cost in measure(computations, rounds, self.device).items():
                found.append(self.row(group, name, cost, forward))
        return found

    def row(self, group: str, name: str, cost: Cost, forward: int) -> dict[str, Any]:
        return {
            "group": group,
            "step": name,
            "image_size": self.spec.image_size,
            "batch_size": self.batch_size,
            "device": self.device.type,
            "milliseconds": 1000 * cost.seconds,
            "ratio": cost.ratio,
            "forward_passes": cost.flops / forward,
            "peak_mebibytes": cost.mebibytes,
        }

    def model(self, config: ModelConfig | None) -> Classifier:
        model = build_model(config or self.config.model, self.spec, 0).to(self.device)
        return model.train()

    def training(self) -> Mapping[str, Computation]:
        """A training step's loss and gradients: plain, with the preset's penalty as it is, and with
        each regularizer on the whole batch."""
        own = self.config.regularizer

        def whole(name: str, changes: Mapping[str, Any]) -> RegularizerConfig:
            regularizer = RegularizerConfig.named(name)
            return replace(regularizer, weight=own.weight or 1.0, fraction=1.0, **changes)

        regularizers = {
            "plain": RegularizerConfig.named("none"),
            PRESETS_OWN: own,
            **{name: whole(*row) for name, row in WHOLE.items()},
        }
        return {name: self.training_step(own) for name, own in regularizers.items()}

    def training_step(self, regularizer: RegularizerConfig) -> Computation:
        loss_of = TrainingLoss(regularizer, self.config.evaluation.eps)
        model = as_fast_as(self.model(self.config.model), self.config.compute)
        parameters = list(model.parameters())
        moves = loss_of.radius * (2 * self.x - 1)  # images of noise: uniform, as a start is
        dropped = torch.full((len(self.x),), torch.inf, device=self.device)

        def attacked(draws: torch.Generator) -> Tensor | None:
            if not regularizer.keeps:
                return loss_of.attacked(model, self.x, self.y, draws)
            given = (self.x, self.y, regularizer, loss_of.radius, moves, dropped)
            return line_search(model, *given)[0]

        def compute() -> None:
            draws = torch.Generator().manual_seed(0)
            loss, _ = loss_of.of(model, self.x, attacked(draws), self.y, 0, draws)
            torch.autograd.grad(loss, parameters)

        return compute

    def plain_step(self, made: Callable[[Classifier], Callable[[Tensor], Tensor]]) -> Computation:
        """A plain training step of the callable that `made` makes of the network."""
        model = as_fast_as(self.model(self.config.model), self.config.compute)
        parameters, called = list(model.parameters()), made(model)

        def compute() -> None:
            torch.autograd.grad(F.cross_entropy(called(self.x), self.y), parameters)

        return compute

    def gradient_matching(self) -> Mapping[str, Computation]:
        """One matching step of DC with ten classes: real batches of this size, ten images each."""
        model = self.model(self.config.dc.model).eval()
        real = self.x.expand(10, *self.x.shape)
        synthetic = torch.rand(10, 10, *self.x.shape[1:], device=self.device).requires_grad_()
        labels = torch.arange(10, device=self.device)
        loss_of = TrainingLoss(RegularizerConfig.named("none"))

        def step(classes_at_once: int) -> Computation:
            gradients = ClassGradients(loss_of, classes_at_once)

            def compute() -> None:
                for group in labels.split(classes_at_once):
                    target = gradients.of_real(model, real[group], group, 0, seed=0)
                    matched = gradients.of_synthetic(model, synthetic[group], group)
                    value = distance("layerwise", matched, target).sum()
                    torch.autograd.grad(value, synthetic)

            return compute

        return {"class by class": step(1), "vectorised": step(10)}

    def mean_matching(self) -> Mapping[str, Computation]:
        """One matching step of DM with ten classes: real batches of this size, ten images each; and
        one of ROME, whose real images are attacked."""
        model = self.model(self.config.dm.model).eval()
        synthetic = torch.rand(100, *self.x.shape[1:], device=self.device).requires_grad_()

        def step(adversary: RegularizerConfig) -> Computation:
            none = RegularizerConfig.named("none")
            attack = TrainingLoss(none, self.config.evaluation.eps, adversary)

            def target(draws: torch.Generator) -> Tensor:
                moved = attack.attacked(model, self.x, self.y, draws)
                with torch.no_grad():
                    x = self.x if moved is None else moved
                    return features_and_logits(model, x)[0].flatten(1).mean(dim=0)

            def compute() -> None:
                draws = torch.Generator().manual_seed(0)
                targets = torch.stack([target(draws) for _ in range(10)])
                features, _ = features_and_logits(model, synthetic)
                means = features.flatten(1).unflatten(0, (10, 10)).mean(dim=1)
                torch.autograd.grad(mean_distance("squared", means, targets).sum(), synthetic)

            return compute

        attacked = self.config.rome.adversary
        return {
            "real images": step(RegularizerConfig.named("none")),
            f"attacked, {attacked.steps} steps": step(attacked),
        }

    def recovery(self) -> Mapping[str, Computation]:
        """One step of recovering this many images of one class, towards the running statistics or
        those of the class."""
        model = as_fast_as(self.model(self.config.model).eval(), self.config.compute)
        u = self.x.clone().requires_grad_()
        own = [(mean[None], variance[None]) for mean, variance in statistics_of(model, self.x)]

        def step(bn_losses: BatchNormLoss) -> Computation:
            def compute() -> None:
                with frozen(model), bn_losses as bn_loss:
                    loss = F.cross_entropy(model.of_normalized(u), self.y) + bn_loss.take()
                    torch.autograd.grad(loss, u)

            return compute

        return {
            "running statistics": step(BatchNormLoss(model, 10.0)),
            "of each class": step(ClassBatchNormLoss(model, 10.0, own)),
        }

    def trajectories(self, steps: int, more: int) -> Mapping[str, Computation]:
        """The gradient of trajectory matching by each of its ways, and of a walk of more steps."""
        model = self.model(self.config.mtt.model)
        theta = flat_parameters(model)
        target = theta + 0.01 * torch.randn(theta.shape, device=self.device)
        rate = torch.tensor(0.01, device=self.device)

        def step_loss(theta: torch.Tensor, images: torch.Tensor, number: int) -> torch.Tensor:
            return F.cross_entropy(call(model, theta, images), self.y)

        def step(name: str, count: int) -> Computation:
            return lambda: GRADIENTS[name](step_loss, theta, target, self.x, rate, count)

        ways = {f"{name}, {steps} steps": step(name, steps) for name in GRADIENTS}
        return {**ways, f"adjoint, {more} steps": step("adjoint", more)}
