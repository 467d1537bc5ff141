"""A trained network that answers for the labels of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from guard.config import ComputeConfig
from guard.models.modes import batch_statistics
from guard.models.networks import folded
from guard.models.precision import as_fast_as
from guard.models.saving import load_model


@contextlib.contextmanager
def labelling(
    folder: Path, bn: str, device: torch.device, compute: ComputeConfig
) -> Iterator[nn.Module]:
    """A saved teacher without gradients. bn: eval, or batch for the statistics of each batch that
    it is given."""
    teacher = load_model(folder, device)
    teacher = as_fast_as(folded(teacher) if bn == "eval" else teacher, compute)
    of_batch = batch_statistics(teacher) if bn == "batch" else contextlib.nullcontext()
    with torch.no_grad(), of_batch:
        yield teacher
