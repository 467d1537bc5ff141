"""What GUARD's released code does instead of Eq. 15, kept to repeat its figures.

Its CIFAR penalty is Eq. 15 without the square, on gradients of the batch's mean loss (1/B of a
sample's; scale = "batch-mean"), along the direction below; its ImageNet-type penalty is the
difference of the batch's mean losses (kind = "loss-difference"). The settings are
`RegularizerConfig.NAMED` "released-cifar" and "released-imagenet".
"""

from __future__ import annotations

from torch import Tensor

OFFSET = 1e-7
"""Added to every element of the gradient and to its norm."""


def released_direction(gradient: Tensor) -> Tensor:
    """(g + 1e-7)/(‖g‖ + 1e-7) of each sample, (B, C, H, W): not of unit length where g is small."""
    flat = gradient.flatten(1)
    z: Tensor = (flat + OFFSET) / (flat.norm(dim=1, keepdim=True) + OFFSET)
    return z.view_as(gradient)
