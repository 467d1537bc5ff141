"""LS-PGD: attacked images that begin where the image's last attack ended (C²R, arXiv 2605.20606).

One visit of an image is a forward and a backward pass and `candidates` forward passes, where PGD
takes `steps` of both. Where the loss has not dropped since the last visit, it is the forward pass
alone. Radius, pixels and evaluation mode are as in `guard.training.losses`.

What the paper leaves open is our choice: one search a visit, its lengths (`RegularizerConfig`), a
uniform start, that the loss is compared though the image may be augmented otherwise now, and that a
perturbation follows its image through shifts and flips.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from guard.config import RegularizerConfig, TrainConfig
from guard.data.augment import Augmenter, Space
from guard.data.images import ImageSet
from guard.group import ALONE, Group
from guard.models.modes import constant_statistics
from guard.models.networks import frozen
from guard.training.losses import gains

Batch = tuple[Tensor, Tensor]


class Perturbations:
    """Of every training image: where its last attack ended, and what the attacked loss was there.

    They lie on the device (`mebibytes`).
    """

    def __init__(
        self,
        config: RegularizerConfig,
        eps: float,
        images: ImageSet,
        shape: tuple[int, ...],
        device: torch.device,
        draws: torch.Generator,
        group: Group = ALONE,
    ) -> None:
        """eps: radius in pixels; shape: of an image, (C, H, W); draws: of where they start; group:
        processes that train together, each of which keeps all of them."""
        self._config, self._eps, self._images, self._group = config, eps, images, group
        start = 2 * torch.rand(len(images), *shape, generator=draws) - 1
        self.moves = (eps * start).to(device)
        """(N, C, H, W), in pixels, as the images lie unaugmented."""
        self.gains = torch.full((len(images),), torch.inf, device=device)
        """(N,); infinite before the first visit."""
        self._labels = images.y.to(device)
        self._rows = self._here = self._framed = torch.empty(0)

    def state_dict(self) -> dict[str, Any]:
        return {"moves": self.moves, "gains": self.gains}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moves.copy_(state["moves"])
        self.gains.copy_(state["gains"])

    def batches(
        self, config: TrainConfig, space: Space, device: torch.device, draws: torch.Generator
    ) -> Iterator[Batch]:
        """One epoch of the batches that `image_batches` makes of the same draws. `attacked` is to
        be called for each before the next one is asked for."""
        augment = Augmenter.of(config, space)
        for x, rows in self._images.numbered().batches(config.batch_size, device, draws):
            same = draws.clone_state()
            x = augment(x, draws)
            self._rows, self._here = rows, self.moves[rows].requires_grad_()
            self._framed = augment(self._here, same)
            yield x, self._labels[rows]

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The share's attacked images of the batch x (B, C, H, W) that was given last."""
        share, known = self._group.share(len(x)), self.gains[self._rows]
        own = share.rows
        moves = self._framed.detach()[own]
        moved, gain = line_search(model, x[own], y[own], self._config, self._eps, moves, known[own])
        whole = [self._group.gathered(part, share, len(x)) for part in (moved - x[own], gain)]
        self._keep(*whole)
        return moved

    def _keep(self, moves: Tensor, gain: Tensor) -> None:
        """Put perturbations back to where their images' pixels came from; what is out of sight
        stays. A shift and a flip take each pixel to one place at most, so the transpose of what
        they do is its inverse."""
        pairs = (moves, torch.ones_like(moves))
        back, seen = (
            torch.autograd.grad(self._framed, self._here, values, retain_graph=True)[0]
            for values in pairs
        )
        self.moves[self._rows] = torch.where(seen > 0, back, self._here.detach())
        self.gains[self._rows] = gain


def mebibytes(count: int, shape: tuple[int, ...]) -> float:
    """Of the perturbations of so many images (C, H, W): float32, and one number more an image."""
    return 4 * count * (math.prod(shape) + 1) / 2**20


def line_search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: RegularizerConfig,
    eps: float,
    moves: Tensor,
    known: Tensor,
) -> tuple[Tensor, Tensor]:
    """Attacked images (B, C, H, W), and the loss that their attack raises at each, (B,).

    moves: perturbations of x to go on from (B, C, H, W); known: the losses that they had (B,). A
    perturbation whose loss is no lower stays; of the others, the best of the candidates along the
    sign of the gradient there is taken.
    """
    low, high = x.clamp(max=0), x.clamp(min=1)

    def within(moved: Tensor, rows: Tensor) -> Tensor:
        near = torch.clamp(moved, x[rows] - eps, x[rows] + eps)
        return torch.clamp(near, low[rows], high[rows])

    with frozen(model), constant_statistics(model):
        clean = model(x).detach() if config.kind == "trades" else None
        everything = torch.arange(len(x), device=x.device)
        here = within(x + moves, everything).detach().requires_grad_()
        reached = gains(model(here), y, clean)
        rows = everything[reached.detach() < known]
        attacked, gain = here.detach().clone(), reached.detach().clone()
        if not len(rows):
            return attacked, gain
        (gradient,) = torch.autograd.grad(reached.sum(), here)
        begin, direction = attacked[rows], gradient[rows].sign()
        gain[rows] = -torch.inf
        with torch.no_grad():
            for number in range(config.candidates):
                length = config.step_size * config.growth**number * eps
                tried = within(begin + length * direction, rows)
                raised = gains(model(tried), y[rows], None if clean is None else clean[rows])
                better = raised > gain[rows]
                attacked[rows[better]], gain[rows[better]] = tried[better], raised[better]
    return attacked, gain
