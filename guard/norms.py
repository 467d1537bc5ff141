"""L2 norms of samples, (B, …) to (B,), that neither underflow nor have a gradient of 0/0."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(values: Tensor) -> Tensor:
    """v/‖v‖ of each sample (B, …); 0 where v is 0. Scaled by max|v| first, so squares do not
    underflow."""
    flat = values.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, 1)
    norm = scaled.norm(dim=1, keepdim=True)
    return (scaled / torch.where(norm > 0, norm, 1)).view_as(values)


def norms(values: Tensor, power: int = 1) -> Tensor:
    """‖v_i‖^power, (B,), with gradient 0 at 0. power: 1 or 2."""
    flat = values.flatten(1)
    return flat.square().sum(dim=1) if power == 2 else flat.norm(dim=1)
