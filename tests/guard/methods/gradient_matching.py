"""Gradient matching on noise around three prototypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from guard.config import ModelConfig, RegularizerConfig
from guard.data.images import Splits, TensorImages
from guard.data.spec import ImageSpec
from guard.methods.dc import DC
from guard.methods.dc.matching import Matching
from guard.methods.start import initial_images
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier, build_model
from guard.training.losses import TrainingLoss
from helpers import CPU, draws

SPEC = ImageSpec(
    channels=3,
    image_size=8,
    num_classes=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.25, 0.3),
    class_names=tuple("abc"),
)
LAYER = Normalize(SPEC.mean, SPEC.std)


def splits(per_class: int = 12, seed: int = 0) -> Splits:
    """Noise around a prototype of each class, the classes in turn."""
    generator, y = draws(seed), torch.arange(3).repeat(per_class)
    prototypes = torch.rand(3, 3, 8, 8, generator=generator)
    pixels = 0.5 * prototypes[y] + 0.5 * torch.rand(len(y), 3, 8, 8, generator=generator)
    images = TensorImages((pixels * 255).round().byte(), y)
    return Splits(spec=SPEC, train=images, validation=images, test=images, sha256="")


def matching(
    data: Splits | None = None,
    ipc: int = 2,
    norm: str = "instance",
    regularizer: str = "none",
    seed: int = 0,
    **config: Any,
) -> Matching:
    loss = TrainingLoss(RegularizerConfig.named(regularizer), 0.03)
    settings = DC(**{"iterations": 1, "outer_loops": 1, "inner_epochs": 1, **config})
    model = ModelConfig(name="convnet", width=4, depth=2, norm=norm)
    return Matching(
        config=settings,
        model_config=model,
        loss=loss,
        splits=data or splits(),
        layer=LAYER,
        ipc=ipc,
        seed=seed,
        device=CPU,
    )


def network(run: Matching, seed: int = 0) -> Classifier:
    return build_model(run.model_config, SPEC, seed)


def start(run: Matching, init: str = "noise", seed: int = 0) -> Tensor:
    return initial_images(init, run.splits, run.ipc, LAYER, seed, CPU)


def pixels(u: Tensor) -> Tensor:
    """Images of u (K, ipc, C, H, W), written out."""
    mean, std = torch.tensor(SPEC.mean), torch.tensor(SPEC.std)
    return u * std.view(3, 1, 1) + mean.view(3, 1, 1)


def of_class(data: Splits, label: int) -> Tensor:
    """All training images of a class, (N, C, H, W)."""
    assert isinstance(data.train, TensorImages)
    return data.train.x[data.train.y == label].float() / 255


def gradient_of(model: nn.Module, loss: Tensor, **options: bool) -> list[Tensor]:
    return [g[None] for g in torch.autograd.grad(loss, list(model.parameters()), **options)]
