"""The work of DM, IDM, NCFM, ROME and C²R: images whose mean features match those of real images.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023 (arXiv 2110.04181).
u: synthetic images behind the network's input layer, (K, ipc, C, H, W); a class's n = ipc·k² are
what its images are for a network, where each is k by k smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from guard.data.images import Splits
from guard.data.tiles import check_tiles, enlarged
from guard.device import setup
from guard.distilled import save_part
from guard.errors import Diverged
from guard.methods.dm import DM, DistributionMatching
from guard.methods.dm.batches import Batches
from guard.methods.dm.losses import characteristic, mean_distance, supervised_contrast
from guard.methods.dm.negatives import Negatives
from guard.methods.dm.networks import Fresh, Networks, Queue
from guard.methods.start import class_members, initial_images, ready_to_match
from guard.models.input_layer import InputLayer, input_layer, load_whitening
from guard.models.networks import Classifier, build_model, features_and_logits, frozen
from guard.seeding import generator
from guard.training.losses import TrainingLoss


def match(stage: DistributionMatching, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Optimise a set by distribution matching. Raises Diverged if the loss is not finite, DataError
    for images that do not divide into smaller ones."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    layer = input_layer(stage.model, splits.spec)
    load_whitening(layer, stage.whitening, store)
    matching = Matching(
        config=stage.matching,
        model_config=stage.model,
        loss=TrainingLoss(stage.regularizer, stage.eps, stage.matching.adversary),
        splits=replace(splits, train=splits.train.near(device)),
        layer=layer.to(device),
        ipc=stage.ipc,
        seed=stage.seed,
        device=device,
    )
    u, metrics = matching.run(Checkpoint(store.scratch(stage)))
    images = layer.inverse(u.flatten(0, 1)).clamp(0, 1).view_as(u)
    facts = {"partition": stage.partition} if stage.partition > 1 else {}
    save_part(folder, images.transpose(0, 1).contiguous(), splits.spec, **facts)
    return {"metrics": metrics}


@dataclass(kw_only=True)
class Matching:
    """One run: the set takes a step on each of many networks."""

    config: DM
    model_config: ModelConfig
    loss: TrainingLoss
    """Of the networks' own training; its attack makes the images that are matched."""
    splits: Splits
    layer: InputLayer
    ipc: int
    seed: int
    device: torch.device

    def __post_init__(self) -> None:
        self.last_frequencies: tuple[tuple[tuple[int, int], int], Tensor] | None = None
        check_tiles("partition", self.config.partition, self.splits.spec.image_size)
        self.members = list(class_members(self.splits, 1))
        self.attack = replace(self.loss, regularizer=RegularizerConfig.named("none"))
        self.networks = self.build_networks()
        self.batches = Batches(
            members=self.members,
            images=self.splits.train,
            batch_size=self.config.batch_size,
            hardest_first=self.config.hardest_first,
            attack=self.attack,
            device=self.device,
        )
        own = self.config.negatives
        number = len(self.members)
        self.negatives = None if own is None else Negatives(own, number, self.device)

    def build(self, seed: int) -> Classifier:
        """An untrained network."""
        model = build_model(self.model_config, self.splits.spec, seed).to(self.device)
        model.normalize = self.layer
        return model

    def build_networks(self) -> Networks:
        if self.config.networks is None:
            return Fresh(build=self.build, seed=self.seed)
        ops = self.config.augment
        training = TrainConfig(augment=("dsa",) if ops else (), dsa_ops=ops)
        return Queue(
            config=self.config.networks,
            build=self.build,
            seed=self.seed,
            loss=self.loss,
            images=self.splits.train,
            augment=Augmenter.of(training, self.layer),
            device=self.device,
        )

    def start(self) -> Tensor:
        """(K, ipc, C, H, W)."""
        config = self.config
        return initial_images(
            config.init,
            self.splits,
            self.ipc,
            self.layer,
            self.seed,
            self.device,
            config.partition,
        ).requires_grad_()

    def run(self, checkpoint: Checkpoint = NOWHERE) -> tuple[Tensor, dict[str, float]]:
        """The optimised u (K, ipc, C, H, W), and what the last step says of it. Raises Diverged if
        u or a loss is not finite."""
        config, u = self.config, self.start()
        optimizer = self.optimizer(u)
        metrics: dict[str, float] = {}
        state: dict[str, Stateful] = {
            "images": Images(u),
            "optimizer": optimizer,
            "networks": self.networks,
            "batches": self.batches,
        }
        if self.negatives is not None:
            state["negatives"] = self.negatives
        for number in range(checkpoint.restore(state) or 0, config.iterations):
            model, accuracy = self.networks.draw(number)
            draws = generator(self.seed, "matching", number)
            ready_to_match(model, self.splits, self.members, draws, self.device)
            with frozen(model):
                loss, metrics = self.loss_of(model, accuracy, u, number, draws)
                u.grad = torch.autograd.grad(loss, u)[0]
            optimizer.step()
            with torch.no_grad():
                u.copy_(self.layer.project(u.flatten(0, 1)).view_as(u))
            if not all(map(math.isfinite, metrics.values())):
                raise Diverged(f"the matching loss became {metrics}")
            if number + 1 < config.iterations:
                checkpoint.offer(state, number + 1)
        if not bool(u.isfinite().all()):
            raise Diverged("the images are not finite after the last step")
        return u.detach(), metrics

    def optimizer(self, u: Tensor) -> torch.optim.Optimizer:
        config = self.config
        if config.optimizer == "adamw":
            return torch.optim.AdamW([u], config.lr_images, weight_decay=0)
        return torch.optim.SGD([u], config.lr_images, momentum=config.momentum)

    def loss_of(
        self, model: Classifier, accuracy: float, u: Tensor, number: int, draws: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of u (K, ipc, C, H, W) on a network in evaluation mode, and its terms as means
        over the classes."""
        config, num_classes = self.config, len(u)
        seed = int(torch.randint(2**62, (), generator=draws))
        target = torch.stack(
            [self.target(model, label, number, seed) for label in range(num_classes)]
        )
        x = self.synthetic(u, seed)
        y = torch.arange(num_classes, device=self.device).repeat_interleave(x.shape[1])
        features, logits = features_and_logits(model, x.flatten(0, 1))
        means = self.embedded(features, seed).unflatten(0, (num_classes, -1)).mean(dim=1)
        distance = mean_distance(config.distance, means, target).sum()
        loss, metrics = distance, {"matching_distance": float(distance.detach()) / num_classes}
        if config.label_weight:
            labels = F.cross_entropy(logits, y)
            loss = loss + num_classes * config.label_weight * accuracy * labels
            metrics |= {"label_loss": float(labels.detach()), "network_accuracy": accuracy}
        if config.contrast_weight:
            moved = self.moved(model, x.flatten(0, 1), y, generator(seed, "contrast"))
            attacked = features_and_logits(model, moved)[0].flatten(1)
            both, twice = torch.cat([features.flatten(1), attacked]), y.repeat(2)
            told_from = None
            if self.negatives is not None:
                told_from = self.negatives.of(both, twice, generator(seed, "negatives"))
            temperature = config.contrast_temperature
            contrast = supervised_contrast(both, twice, temperature, told_from, anchors=len(y))
            loss = loss + num_classes * config.contrast_weight * contrast
            metrics["contrast"] = float(contrast.detach())
        return loss, metrics

    def target(self, model: Classifier, label: int, number: int, seed: int) -> Tensor:
        """The mean feature (F,) of a batch of real images of the class, attacked where the
        configuration says so."""
        draws = generator(seed, "real", label)
        x, y = self.batches.of(model, label, number, draws)
        attacked = self.attack.attacked(model, x, y, draws)
        x = self.augmented(x if attacked is None else attacked, label, seed)
        with torch.no_grad():
            return self.embedded(features_and_logits(model, x)[0], seed).mean(dim=0)

    def embedded(self, features: Tensor, seed: int) -> Tensor:
        """What is averaged of features (N, …): (N, F)."""
        flat = features.flatten(1)
        if self.config.distance != "characteristic":
            return flat
        shape = (self.config.frequencies, flat.shape[1])
        return characteristic(flat, self.frequencies(shape, seed).to(flat))

    def frequencies(self, shape: tuple[int, int], seed: int) -> Tensor:
        """Of a step, which all of its classes and the set share; the last ones are kept."""
        if self.last_frequencies is None or self.last_frequencies[0] != (shape, seed):
            drawn = torch.randn(shape, generator=generator(seed, "frequencies"))
            self.last_frequencies = (shape, seed), drawn
        return self.last_frequencies[1]

    def synthetic(self, u: Tensor, seed: int) -> Tensor:
        """What a network gets of u (K, ipc, C, H, W): augmented pixels (K, n, C, H, W)."""
        x = self.layer.inverse(u.flatten(0, 1))
        parts = enlarged(x, self.config.partition).flatten(0, 1).unflatten(0, (len(u), -1))
        return torch.stack([self.augmented(own, label, seed) for label, own in enumerate(parts)])

    def augmented(self, x: Tensor, label: int, seed: int) -> Tensor:
        """The class's siamese operation of this step, of pixels x (B, C, H, W)."""
        if not self.config.augment:
            return x
        draw = draw_dsa(self.config.augment, 1, generator(seed, "class", label))
        return in_space(x, draw, self.layer)

    def moved(self, model: Classifier, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
        """x (N, C, H, W) with the perturbation that attacks it, differentiable in x as if that were
        constant."""
        attacked = self.attack.attacked(model, x.detach(), y, draws)
        assert attacked is not None
        return x + (attacked - x.detach())
