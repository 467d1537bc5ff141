"""Which statistics a network's BatchNorm layers normalise by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from guard.models.batchnorm import (
    Statistics,
    batchnorms,
    set_buffers,
    use_statistics,
)
from guard.models.folding import convolved, folding
from guard.models.synchronized import PLACES, SynchronizedBatchNorm, group_statistics


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


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode, but each BatchNorm by the statistics of the pass, and leave
    its state untouched."""
    with _restored(model):
        model.eval()
        for bn in batchnorms(model):
            bn.track_running_stats = False
            bn.training = True
        yield


@contextlib.contextmanager
def recorded_statistics(model: nn.Module) -> Iterator[Statistics]:
    """What a forward pass in training mode normalises with, once it is done inside the block."""
    found: Statistics = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        if isinstance(module, SynchronizedBatchNorm) and not module.apart:
            found.append(group_statistics(x, module.group)[:2])
            return
        variance, mean = torch.var_mean(x, dim=PLACES, correction=0)
        found.append((mean, variance))

    handles = [bn.register_forward_pre_hook(note) for bn in batchnorms(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


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
