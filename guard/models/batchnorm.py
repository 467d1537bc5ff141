"""Which statistics a network's BatchNorm layers normalise by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batchnorms(model: nn.Module) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


@contextlib.contextmanager
def batchnorm_mode(model: nn.Module, mode: str, x: Tensor) -> Iterator[None]:
    """Run the model with BatchNorm statistics chosen by `mode` and leave its state untouched.

    eval: running statistics. frozen-batch: those of batch `x` (B, C, H, W), as constants. train:
    those of each forward pass.
    """
    modes = [module.training for module in model.modules()]
    originals = [(bn.track_running_stats, dict(bn.named_buffers())) for bn in batchnorms(model)]
    try:
        if mode == "frozen-batch":
            use_statistics_of(model, x)
        if mode == "train":
            for bn in batchnorms(model):  # nothing is written inside torch.func transforms
                bn.track_running_stats = False
        model.train(mode == "train")
        yield
    finally:
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training
        for bn, (tracks, buffers) in zip(batchnorms(model), originals, strict=True):
            bn.track_running_stats = tracks
            _set_buffers(bn, buffers)


def _set_buffers(bn: BatchNorm, buffers: dict[str, Tensor]) -> None:
    """Swap tensors instead of writing into them: a graph may still hold the old ones."""
    for name, value in buffers.items():
        bn.register_buffer(name, value)


def use_statistics_of(model: nn.Module, x: Tensor) -> None:
    """Make the running statistics those that a training-mode pass over `x` (B, C, H, W) normalises
    with, and leave the model in training mode."""

    def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, BatchNorm)
        variance, mean = torch.var_mean(inputs[0].detach(), dim=(0, 2, 3), correction=0)
        _set_buffers(module, {"running_mean": mean, "running_var": variance})

    layers = batchnorms(model)
    tracks = [bn.track_running_stats for bn in layers]
    handles = [bn.register_forward_pre_hook(take) for bn in layers]
    try:
        for bn in layers:  # nothing is written in place: works inside torch.func transforms
            bn.track_running_stats = False
        model.train()
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        for bn, tracking in zip(layers, tracks, strict=True):
            bn.track_running_stats = tracking
