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
from guard.models.networks import Classifier, build_model
from guard.models.precision import as_fast_as
from guard.training.line_search import line_search
from guard.training.losses import TrainingLoss
from guard.trial import TrialConfig
from studies.bench.measuring import Computation, Cost, account
from studies.bench.noise import CLASSES, spec_of

PRESETS_OWN = "the preset's penalty"
WHOLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "curvature": ("curvature", {}),
    "curvature, frozen-batch": ("curvature", {"bn": "frozen-batch"}),
    "curvature, train": ("curvature", {"bn": "train"}),
    "curvature, a quarter": ("curvature", {"fraction": 0.25}),
    "curvature, an eighth": ("curvature", {"fraction": 0.125}),
    "curvature, a quarter, train": ("curvature", {"fraction": 0.25, "bn": "train"}),
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
"""Regularizers, of a whole batch unless they say otherwise: a name of RegularizerConfig, and what
differs from it. ls-pgd as it is at most: every loss has dropped."""


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

    def forward(self, config: ModelConfig | None) -> int:
        """Floating-point operations of a batch's forward pass."""
        return account(partial(self.model(config), self.x)).flops

    def model(self, config: ModelConfig | None) -> Classifier:
        model = build_model(config or self.config.model, self.spec, 0).to(self.device)
        return model.train()

    def training(self) -> Mapping[str, Computation]:
        """A training step's loss and gradients: plain, with the preset's penalty as it is, and with
        each regularizer on the whole batch."""
        own = self.config.regularizer

        def whole(name: str, changes: Mapping[str, Any]) -> RegularizerConfig:
            regularizer = RegularizerConfig.named(name)
            return replace(regularizer, weight=own.weight or 1.0, **{"fraction": 1.0, **changes})

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
