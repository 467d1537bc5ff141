"""BatchNorm statistics of each class, and how far the images of a class are from them.

z: (N, C, H, W), what a BatchNorm gets; (mean, variance) of K classes, (K, C) each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from guard.artifacts import Artifact, ArtifactStore
from guard.data.datasets import load_data
from guard.data.images import ImageSet
from guard.device import setup
from guard.methods.sre2l import ClassStatistics
from guard.methods.sre2l.statistics import BatchNormLoss, in_channels
from guard.models.batchnorm import Statistics, affine, batchnorms
from guard.models.saving import load_model

FILE = "statistics.safetensors"


def measure(stage: ClassStatistics, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    """Write what the BatchNorm layers of the teacher, in evaluation mode, get of each class."""
    device = setup(stage.compute)
    splits = load_data(stage.data)
    teacher = load_model(store.read(stage.teacher).path, device)
    found = class_statistics(teacher, splits.train, splits.spec.num_classes, device)
    tensors: dict[str, Tensor] = {}
    for number, (mean, variance) in enumerate(found):
        tensors |= {f"mean-{number:04d}": mean, f"variance-{number:04d}": variance}
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, folder / FILE)
    return {"metrics": {}}


def read(measured: Artifact, device: torch.device) -> Statistics:
    """What `measure` wrote: for each layer (mean, variance), (K, C) each."""
    tensors = load_file(measured.path / FILE)
    return [
        (tensors[name].to(device), tensors[name.replace("mean", "variance")].to(device))
        for name in sorted(tensors)
        if name.startswith("mean")
    ]


def by_model(statistics: Statistics, models: Sequence[nn.Module]) -> list[Statistics]:
    """Those of a committee's layers, member by member."""
    layers = iter(statistics)
    return [list(islice(layers, len(batchnorms(model)))) for model in models]


def of_classes(statistics: Statistics, classes: Tensor) -> Statistics:
    """Those of some classes (k,), in that order."""
    return [(mean[classes], variance[classes]) for mean, variance in statistics]


def add_by_class(totals: Tensor, labels: Tensor, rows: Tensor) -> None:
    """Add each of rows (B, C) to the total (K, C) of its label; on CUDA, where the order of
    `index_add_` varies, by a matrix product."""
    if rows.is_cuda:
        totals += F.one_hot(labels, len(totals)).to(rows).T @ rows
    else:
        totals.index_add_(0, labels, rows)


@torch.no_grad()
def class_statistics(
    model: nn.Module, images: ImageSet, num_classes: int, device: torch.device
) -> Statistics:
    """Mean and variance over all pixels of each class's images, of what each BatchNorm layer gets:
    (K, C) each, float32. The model is in evaluation mode."""
    layers = batchnorms(model)
    shapes = [(num_classes, layer.num_features) for layer in layers]
    sums, squares, counts = (
        [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
        for _ in range(3)
    )
    own_labels: list[Tensor] = []

    def note(number: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        z = inputs[0].double()
        pixels = torch.full(z.shape[:2], z[0, 0].numel(), dtype=z.dtype, device=device)
        add_by_class(sums[number], own_labels[0], z.sum(dim=(2, 3)))
        add_by_class(squares[number], own_labels[0], z.square().sum(dim=(2, 3)))
        add_by_class(counts[number], own_labels[0], pixels)

    handles = [
        layer.register_forward_pre_hook(partial(note, number))
        for number, layer in enumerate(layers)
    ]
    try:
        for x, y in images.batches(500, device):
            own_labels[:] = [y]
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    variances = [
        (square / count - mean.square()).clamp(min=0)
        for square, count, mean in zip(squares, counts, means, strict=True)
    ]
    return [(mean.float(), own.float()) for mean, own in zip(means, variances, strict=True)]


class ClassBatchNormLoss(BatchNormLoss):
    """The same loss of the images of each class from the statistics of that class, mean over the
    classes. Images come as k classes over and over (Xiao and He, NeurIPS 2024)."""

    def __init__(
        self,
        model: nn.Module,
        first_multiplier: float,
        statistics: Statistics,
        scale: Literal["sum", "mean"] = "sum",
    ) -> None:
        """statistics: for each layer (mean, variance) of the k classes, (k, C) each."""
        super().__init__(model, first_multiplier, scale)
        self.statistics = statistics

    def forward_of(self, number: int) -> Any:
        layer, weight = self.layers[number], self.weights[number]
        scale, shift = (in_channels(values.detach()) for values in affine(layer))
        mean, variance = self.statistics[number]

        def normalised(z: Tensor) -> Tensor:
            z = z.float() if z.dtype is torch.bfloat16 else z
            by_class = z.unflatten(0, (-1, len(mean)))
            own_variance, own_mean = torch.var_mean(by_class, dim=(0, 3, 4), correction=0)
            distances = (own_mean - mean).norm(dim=1) + (own_variance - variance).norm(dim=1)
            self.terms.append(weight * distances.mean())
            return torch.addcmul(shift, z, scale)

        return normalised
