"""APGD-T of AutoAttack, every sample with a step size of its own in both norms."""

from __future__ import annotations

from typing import Any

import torch
import torchattacks
from torch import Tensor, nn


class TargetedAPGD(torchattacks.APGD):  # type: ignore[misc]
    """APGD on the targeted DLR loss (arXiv 2003.01690, Eq. 10), target after target, from the most
    likely wrong class on; a sample that is broken is not attacked again.

    torchattacks has the same as APGDT, which in L2 moves a whole batch by the step size of its
    first sample. Its APGD does not, and takes the loss from here.
    """

    def __init__(self, model: nn.Module, targets: int, **options: Any) -> None:
        super().__init__(model, loss="dlr", **options)
        self.num_targets = targets
        self.targets = torch.empty(0, dtype=torch.long)
        """Of the samples that are attacked, (B,)."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images (B, C, H, W); the image itself where none was found."""
        adversarial = images.clone()
        left = (self.get_logits(images).argmax(dim=1) == labels).nonzero().squeeze(1)
        for rank in range(2, self.num_targets + 2):
            if not len(left):
                break
            x, y = images[left], labels[left]
            self.targets = self.get_logits(x).sort(dim=1).indices[:, -rank]
            _, survives, _, moved = self.attack_single_run(x, y)
            adversarial[left[~survives]] = moved[~survives]
            left = left[survives]
        return adversarial

    def dlr_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """−(z_y − z_t)/(z_1 − (z_3 + z_4)/2) for logits x (B, K), K at least 4: (B,)."""
        ordered = x.sort(dim=1).values
        own, target = (x.gather(1, of[:, None]).squeeze(1) for of in (y, self.targets))
        scale = ordered[:, -1] - 0.5 * ordered[:, -3] - 0.5 * ordered[:, -4]
        return -(own - target) / (scale + 1e-12)
