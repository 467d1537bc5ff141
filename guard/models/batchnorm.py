"""A network's BatchNorm layers and their statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm
Statistics = list[tuple[Tensor, Tensor]]
"""(mean, variance) of what each BatchNorm layer of a network gets, (C,) each."""


def batchnorms(model: nn.Module) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def affine(norm: BatchNorm, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that are the layer in evaluation mode, differentiable in its parameters.
    added: (C,), what is to be added to its input first."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else norm.weight * scale
    mean = norm.running_mean if added is None else norm.running_mean - added
    return scale, -mean * scale if norm.bias is None else norm.bias - mean * scale


def use_statistics(model: nn.Module, statistics: Statistics) -> None:
    """Make them the running ones."""
    for bn, (mean, variance) in zip(batchnorms(model), statistics, strict=True):
        set_buffers(bn, {"running_mean": mean, "running_var": variance})


def set_buffers(bn: BatchNorm, buffers: dict[str, Tensor]) -> None:
    """Swap tensors instead of writing into them: a graph may still hold the old ones."""
    for name, value in buffers.items():
        bn.register_buffer(name, value)
