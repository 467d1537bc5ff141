"""Which statistics a network's BatchNorm layers normalise by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from guard.models.batchnorm import (
    Statistics,
    batchnorms,
    recorded_statistics,
    set_buffers,
    use_statistics,
)
from guard.models.folding import convolved, folding


@contextlib.contextmanager
def constant_statistics(model: nn.Module, statistics: Statistics | None = None) -> Iterator[None]:
    """Run the model in evaluation mode, with these statistics instead of the running ones, and
    leave its state untouched. BatchNorm is an affine map then, and costs nothing: the convolution
    before it does it."""
    with _restored(model):
        if statistics is not None:
            use_statistics(model, statistics)
        model.eval()
        with folding(convolved(model)):
            yield


@contextlib.contextmanager
def own_statistics(model: nn.Module) -> Iterator[None]:
    """Run the model in training mode, each pass normalised by its own statistics, and leave its
    state untouched."""
    with _restored(model):
        for bn in batchnorms(model):  # nothing is written inside torch.func transforms
            bn.track_running_stats = False
        model.train()
        yield


@torch.no_grad()
def statistics_of(model: nn.Module, x: Tensor) -> Statistics:
    """What a forward pass over `x` (B, C, H, W) in training mode normalises with."""
    if not batchnorms(model):
        return []
    with own_statistics(model), recorded_statistics(model) as found:
        model(x)
    return found


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """After the block the mode of every layer and the buffers of every BatchNorm are as before."""
    modes = [module.training for module in model.modules()]
    originals = [(bn.track_running_stats, dict(bn.named_buffers())) for bn in batchnorms(model)]
    try:
        yield
    finally:
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training
        for bn, (tracks, buffers) in zip(batchnorms(model), originals, strict=True):
            bn.track_running_stats = tracks
            set_buffers(bn, buffers)
