"""Square in L2, with the mass of a perturbation counted in each channel."""

from __future__ import annotations

import math

import torch
import torchattacks
from torch import Tensor

from guard.norms import unit


class Square(torchattacks.Square):  # type: ignore[misc]
    """Square Attack (arXiv 1912.00049): Algorithm 2 in L_inf, where this is torchattacks', and
    Algorithm 3 in L2.

    A step in L2 takes the mass of two windows of the perturbation and puts it into one. That mass
    is each channel's own, as in the authors' code (github.com/max-andr/square-attack): torchattacks
    gives every channel the mass of all, and takes the excess from the rest of the image. On images
    of one channel both are the same. Images of any side are taken: there the first tiles fill
    what they fit into, and a window is no larger than the image.
    """

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Queries used (B,), and the images that they led to (B, C, H, W)."""
        if self.norm == "Linf":
            found: tuple[Tensor, Tensor] = super().attack_single_run(x, y)
            return found
        with torch.no_grad():
            best = self.at(x, self.tiles(x))
            margin, _ = self.margin_and_loss(best, y)
            queries = torch.ones_like(margin)
            for number in range(self.n_queries):
                left = (margin > 0).nonzero().squeeze(1)
                if not len(left):
                    break
                tried = self.at(x[left], self.shifted(best[left] - x[left], number))
                reached, _ = self.margin_and_loss(tried, y[left])
                better = reached < margin[left]
                best[left[better]], margin[left[better]] = tried[better], reached[better]
                queries[left] += 1
        return queries, best

    def at(self, x: Tensor, delta: Tensor) -> Tensor:
        """x + delta (B, C, H, W), as long as the radius, clipped to [0, 1]."""
        moved: Tensor = x + self.eps * unit(delta)
        return moved.clamp(0, 1)

    def tiles(self, x: Tensor) -> Tensor:
        """The first perturbation of x (B, C, H, W): tiles of a fifth of the side, each of a random
        sign and orientation."""
        height, width = x.shape[-2:]
        side = max(height // 5, 1)
        margin = (height - 5 * side) // 2 if height > 5 * side else 0
        delta = torch.zeros_like(x)
        for row in range(margin, height - side + 1, side):
            for column in range(margin, width - side + 1, side):
                bump = self.eta(side) * self.random_choice([1, x.shape[1], 1, 1])
                delta[:, :, row : row + side, column : column + side] = bump
        return delta

    def shifted(self, delta: Tensor, number: int) -> Tensor:
        """A perturbation (B, C, H, W) with the mass of two windows in the first one, at a random
        place, in query `number`."""
        channels, height, width = delta.shape[1:]
        side = self.side(number, min(height, width))
        places = [self.random_int(0, max(room - side, 0)) for room in (height, width) * 2]
        rows, columns, other_rows, other_columns = (
            slice(int(place), int(place) + side) for place in places
        )
        inside = torch.zeros_like(delta[:1, :1])
        inside[..., rows, columns] = inside[..., other_rows, other_columns] = 1
        unused = (self.eps**2 - delta.square().sum(dim=(1, 2, 3), keepdim=True)).clamp(min=0)
        mass = (delta * inside).square().sum(dim=(2, 3), keepdim=True) + unused / channels
        bump = self.eta(side) * self.random_choice([1, channels, 1, 1])
        bump = bump + in_channels(delta[..., rows, columns])
        moved = delta.clone()
        moved[..., other_rows, other_columns] = 0
        moved[..., rows, columns] = in_channels(bump) * mass.sqrt()
        return moved

    def side(self, number: int, largest: int) -> int:
        """Of the window in query `number`: odd, at least 3, where the image is no smaller."""
        side = max(round(math.sqrt(self.p_selection(number)) * largest), 3)
        return min(side + 1 - side % 2, largest)


def in_channels(values: Tensor) -> Tensor:
    """Each channel of (B, C, H, W) as a unit vector; 0 where it is 0."""
    return unit(values.flatten(0, 1)).view_as(values)
