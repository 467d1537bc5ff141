"""A network's BatchNorm layers and their statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm
Statistics = list[tuple[Tensor, Tensor]]
"""(mean, variance) of what each BatchNorm layer of a network gets, (C,) each."""


def batchnorms(model: nn.Module) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


@contextlib.contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[Statistics]:
    """What a forward pass in training mode normalises with, once it is done inside the block."""
    found: Statistics = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach(), dim=(0, 2, 3), correction=0)
        found.append((mean, variance))

    handles = [bn.register_forward_pre_hook(note) for bn in batchnorms(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def use_statistics(model: nn.Module, statistics: Statistics) -> None:
    """Make them the running ones."""
    for bn, (mean, variance) in zip(batchnorms(model), statistics, strict=True):
        set_buffers(bn, {"running_mean": mean, "running_var": variance})


def set_buffers(bn: BatchNorm, buffers: dict[str, Tensor]) -> None:
    """Swap tensors instead of writing into them: a graph may still hold the old ones."""
    for name, value in buffers.items():
        bn.register_buffer(name, value)
