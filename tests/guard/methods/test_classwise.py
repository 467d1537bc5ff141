"""BatchNorm statistics of single classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recovering import SPEC, teacher
from torch import Tensor

from guard.data.images import TensorImages
from guard.methods.sre2l.classwise import ClassBatchNormLoss, class_statistics, of_classes
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models.batchnorm import batchnorms
from helpers import CPU, draws


def inputs_of(model: Any, x: Tensor) -> list[np.ndarray]:
    """What each BatchNorm layer gets."""
    found: list[np.ndarray] = []
    handles = [
        layer.register_forward_pre_hook(lambda _, own: found.append(own[0].detach().numpy()))
        for layer in batchnorms(model)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def images(count: int = 1100) -> TensorImages:
    """More than a batch, classes of several sizes."""
    x = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=draws())
    y = torch.randint(0, 3, (count,), generator=draws(1)).clamp(max=2)
    y[:5] = 3
    return TensorImages(x, y)


def test_statistics_are_those_of_all_pixels_of_a_class() -> None:
    data, model = images(), teacher()
    found = class_statistics(model, data, 4, CPU)
    assert not any(layer._forward_pre_hooks for layer in batchnorms(model))
    for label in range(4):
        own = data.x[data.y == label].float() / 255
        for (mean, variance), z in zip(found, inputs_of(model, own), strict=True):
            wide = z.astype(np.float64)
            np.testing.assert_allclose(mean[label], wide.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(
                variance[label], wide.var(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("scale", ["sum", "mean"])
def test_the_loss_is_the_mean_over_classes_of_each_ones_distance(scale: Any) -> None:
    model = teacher().double()
    aims = [
        (
            torch.rand(4, layer.num_features, generator=draws(n), dtype=torch.float64),
            torch.rand(4, layer.num_features, generator=draws(n + 9), dtype=torch.float64),
        )
        for n, layer in enumerate(batchnorms(model))
    ]
    own = of_classes(aims, torch.tensor([2, 0]))
    x = torch.rand(6, 3, 8, 8, generator=draws(3), dtype=torch.float64)
    weights = [3.0] + [1.0] * (len(aims) - 1)
    expected = 0.0
    for weight, z, (mean, variance) in zip(weights, inputs_of(model, x), own, strict=True):
        gaps = []
        for place in range(2):
            rows = z[place::2]
            gaps.append(
                np.linalg.norm(rows.mean(axis=(0, 2, 3)) - mean[place].numpy())
                + np.linalg.norm(rows.var(axis=(0, 2, 3)) - variance[place].numpy())
            )
        share = sum(weights) * np.sqrt(z.shape[1]) if scale == "mean" else 1.0
        expected += weight * float(np.mean(gaps)) / share
    with ClassBatchNormLoss(model, 3.0, own, scale) as loss:
        logits = model(x)
        assert float(loss.take().detach()) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(logits, model(x))


def test_of_one_class_at_the_running_statistics_it_is_the_plain_loss() -> None:
    model = teacher()
    aims = [(bn.running_mean[None], bn.running_var[None]) for bn in batchnorms(model)]
    x = torch.rand(5, 3, 8, 8, generator=draws())
    values = []
    for loss in (BatchNormLoss(model, 10.0), ClassBatchNormLoss(model, 10.0, aims)):
        with loss, torch.no_grad():
            model(x)
            values.append(float(loss.take()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_the_loss_is_differentiable_in_the_images() -> None:
    model = teacher().double()
    aims = [
        (torch.zeros(2, bn.num_features).double(), torch.ones(2, bn.num_features).double())
        for bn in batchnorms(model)
    ]
    x = torch.rand(4, 3, 8, 8, generator=draws(5), dtype=torch.float64, requires_grad=True)

    def value(x: Tensor) -> Tensor:
        with ClassBatchNormLoss(model, 10, aims) as loss:
            model(x)
            return loss.take()

    assert torch.autograd.gradcheck(value, (x,), fast_mode=True)
    assert SPEC.num_classes == 4
