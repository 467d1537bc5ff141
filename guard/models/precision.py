"""In which numbers a network computes: what `compute.mode` means for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from guard.config import ComputeConfig
from guard.device import has_bfloat16
from guard.models.compiling import eager
from guard.models.networks import Classifier


def as_fast_as(model: Classifier, compute: ComputeConfig) -> Classifier:
    """The model itself. In fast mode images lie channels last, and its passes take bfloat16 where
    the device has it: for what is differentiated once."""
    if compute.mode == "fast":
        model.to(memory_format=torch.channels_last)
        model.lowered = has_bfloat16(compute.device)
    return model


def is_lowered(model: nn.Module) -> bool:
    return isinstance(model, Classifier) and model.lowered


@contextlib.contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Passes inside the block take float32, no TF32 and no compiled kernels: for verdicts, and for
    differences that would drown in the rounding."""
    before = is_lowered(model), torch.backends.cudnn.allow_tf32
    matmul = torch.backends.cuda.matmul.allow_tf32
    try:
        if isinstance(model, Classifier):
            model.lowered = False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with eager(model):
            yield
    finally:
        if isinstance(model, Classifier):
            model.lowered = before[0]
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.backends.cuda.matmul.allow_tf32 = matmul
