"""DC's and DSA's work: images whose gradients match those of real images, class by class.

Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021 (arXiv 2006.05929); Zhao and
Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (arXiv
2102.08259). u: synthetic images behind the network's input layer, (K, ipc, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.artifacts import ArtifactStore
from guard.checkpoint import NOWHERE, Checkpoint, Images, Stateful
from guard.config import ModelConfig, RegularizerConfig, TrainConfig
from guard.data.augment import Augmenter, in_space
from guard.data.datasets import load_data
from guard.data.dsa import draw_dsa
from guard.data.images import Splits, load_images
from guard.device import setup
from guard.distilled import save_part
from guard.errors import Diverged
from guard.methods.dc import DC, GradientMatching
from guard.methods.dc.gradients import ClassGradients, distance, relative_change
from guard.methods.start import class_members, initial_images, ready_to_match, some
from guard.models.input_layer import InputLayer, input_layer, load_whitening
from guard.models.networks import Classifier, build_model
from guard.seeding import derive, generator
from guard.training.losses import TrainingLoss

CLASSES_AT_ONCE = 20


def match_gradients(
    stage: GradientMatching, store: ArtifactStore, folder: Path
) -> Mapping[str, Any]:
    """Optimise a set by gradient matching. Raises Diverged if the distance is not finite."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    layer = input_layer(stage.model, splits.spec)
    load_whitening(layer, stage.whitening, store)
    matching = Matching(
        config=stage.matching,
        model_config=stage.model,
        loss=TrainingLoss(stage.regularizer, stage.eps),
        splits=replace(splits, train=splits.train.near(device)),
        layer=layer.to(device),
        ipc=stage.ipc,
        seed=stage.seed,
        device=device,
    )
    u, metrics = matching.run(Checkpoint(store.scratch(stage)))
    images = layer.inverse(u.flatten(0, 1)).clamp(0, 1).view_as(u)
    save_part(folder, images.transpose(0, 1).contiguous(), splits.spec)
    return {"metrics": metrics}


@dataclass(kw_only=True)
class Matching:
    """One run: the set is matched on fresh networks, one after another."""

    config: DC
    model_config: ModelConfig
    loss: TrainingLoss
    splits: Splits
    layer: InputLayer
    ipc: int
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        self.members = list(class_members(self.splits, 1))
        smallest = min(len(members) for members in self.members)
        self.batch_size = min(self.config.batch_size, smallest)
        default = 1 if self.device.type == "cpu" else CLASSES_AT_ONCE
        self.gradients = ClassGradients(self.loss, self.config.classes_at_once or default)

    def run(self, checkpoint: Checkpoint = NOWHERE) -> tuple[Tensor, dict[str, float]]:
        """The optimised u (K, ipc, C, H, W), and what the last network says of it. Raises Diverged
        if u or the distance is not finite."""
        config = self.config
        u = initial_images(
            config.init, self.splits, self.ipc, self.layer, self.seed, self.device
        ).requires_grad_()
        optimizer = torch.optim.SGD([u], config.lr_images, momentum=config.momentum)
        outer, inner = config.loops(self.ipc)
        metrics: dict[str, float] = {}
        state: dict[str, Stateful] = {"images": Images(u), "optimizer": optimizer}
        for number in range(checkpoint.restore(state) or 0, config.iterations):
            draws = generator(self.seed, "matching", number)
            network = derive(self.seed, "network", number)
            model = build_model(self.model_config, self.splits.spec, network).to(self.device)
            model.normalize = self.layer
            for loop in range(outer):
                metrics = self.step(model, u, number, draws)
                optimizer.step()
                with torch.no_grad():
                    u.copy_(self.layer.project(u.flatten(0, 1)).view_as(u))
                if loop < outer - 1:
                    self.train_network(model, u.detach(), inner, draws)
            if number + 1 < config.iterations:
                checkpoint.offer(state, number + 1)
        if not bool(u.isfinite().all()):
            raise Diverged("the images are not finite after the last step")
        if self.loss.regularizer.active:
            metrics["penalty_ratio"] = self.penalty_ratio(model, u.detach(), draws)
        return u.detach(), metrics

    def penalty_ratio(self, model: Classifier, u: Tensor, draws: torch.Generator) -> float:
        """How far the regularizer moves the gradient that u (K, ipc, C, H, W) is matched to,
        relative to the plain one."""
        everything, seed = torch.arange(len(u)), _seed(draws)
        real, _ = self.batches(u, everything, seed)
        labels, epoch = everything.to(self.device), self.config.iterations - 1
        plain = ClassGradients(TrainingLoss(RegularizerConfig.named("none")), 1)
        changed = ClassGradients(self.loss, 1).of_real(model, real, labels, epoch, seed)
        return relative_change(changed, plain.of_real(model, real, labels, epoch, seed))

    def step(
        self, model: Classifier, u: Tensor, number: int, draws: torch.Generator
    ) -> dict[str, float]:
        """One matching step: fill `u.grad` (K, ipc, C, H, W) with the gradient of the summed
        distances. What a class draws does not depend on the classes beside it. Raises Diverged if
        they are not finite."""
        self.prepare(model, draws)
        seed, total = _seed(draws), 0.0
        u.grad = torch.zeros_like(u)
        for group in torch.arange(len(u)).split(self.gradients.classes_at_once):
            real, synthetic = self.batches(u, group, seed)
            labels = group.to(self.device)
            target = self.gradients.of_real(model, real, labels, number, seed)
            matched = self.gradients.of_synthetic(model, synthetic, labels)
            value = distance(self.config.distance, matched, target).sum()
            u.grad += torch.autograd.grad(value, u)[0]
            total += float(value.detach())
        if not math.isfinite(total):
            raise Diverged(f"the matching distance became {total}")
        return {"matching_distance": total / len(u)}

    def prepare(self, model: Classifier, draws: torch.Generator) -> None:
        """Evaluation mode, with BatchNorm statistics of a few real images of each class."""
        ready_to_match(model, self.splits, self.members, draws, self.device)

    def batches(self, u: Tensor, group: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Pixels of real (k, B, C, H, W) and of all synthetic images (k, ipc, C, H, W) of some
        classes; siamese operations are drawn for each class and hit both alike."""
        draws = {label: generator(seed, "class", label) for label in group.tolist()}
        chosen = [some(self.members[k], self.batch_size, own) for k, own in draws.items()]
        real = load_images(self.splits.train, torch.cat(chosen), self.device)
        real = real.unflatten(0, (len(group), -1))
        own = u[group.to(self.device)]
        synthetic = self.layer.inverse(own.flatten(0, 1)).view_as(own)
        if not self.config.augment:
            return real, synthetic
        siamese = [draw_dsa(self.config.augment, 1, own) for own in draws.values()]
        pairs = [
            tuple(in_space(x, draw, self.layer) for x in pair)
            for *pair, draw in zip(real, synthetic, siamese, strict=True)
        ]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def train_network(
        self, model: Classifier, u: Tensor, epochs: int, draws: torch.Generator
    ) -> None:
        """Plain training of the network on the synthetic images u (K, ipc, C, H, W)."""
        images = self.layer.inverse(u.flatten(0, 1))
        labels = torch.arange(len(u), device=self.device).repeat_interleave(self.ipc)
        names: Sequence[Any] = ("dsa",) if self.config.augment else ()
        training = TrainConfig(augment=tuple(names), dsa_ops=self.config.augment)
        augment = Augmenter.of(training, self.layer)
        parameters = list(model.parameters())
        optimizer = torch.optim.SGD(parameters, self.config.lr_network)
        model.train()
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=draws).to(self.device)
            for indices in order.split(self.config.inner_batch_size):
                loss = F.cross_entropy(model(augment(images[indices], draws)), labels[indices])
                optimizer.zero_grad(set_to_none=True)
                loss.backward(inputs=parameters)
                optimizer.step()


def _seed(draws: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=draws))
