"""Processes that train one network together, each on its share of every batch.

What one process computes is a summand: losses and gradients of the whole batch are sums over the
processes. Gradients of parameters are summed once a step, as one vector (`Group.sum`), and not by
torch's DistributedDataParallel: its hooks run when `backward` reaches a parameter of a forward pass
that it was told of, but a penalty takes several passes a step, gradients in the images between
them, and a second derivative through all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def _alone(values: Tensor) -> None:
    """The sum over one process."""


@dataclass(frozen=True)
class Group:
    """The processes, as one of them sees them. All make the same calls in the same order."""

    rank: int = 0
    """Of this process, from 0."""
    size: int = 1
    add: Callable[[Tensor], None] = _alone
    """Replaces a contiguous tensor by its sum over the processes, to the same bits in each."""

    def share(self, total: int) -> Share:
        """What this process has of `total` rows: as many as the others, or one more or less; all of
        them, as every other has, where there are fewer rows than processes."""
        if total < self.size:
            return Share(group=self, rows=slice(0, total), weight=1 / self.size, repeated=True)
        first, last = (total * rank // self.size for rank in (self.rank, self.rank + 1))
        return Share(group=self, rows=slice(first, last), weight=(last - first) / total)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type, any shapes, by their sums."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.add(flat)
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, values in zip(tensors, flat.split(sizes), strict=True):
            tensor.copy_(values.view_as(tensor))

    def summed(self, values: Tensor) -> Tensor:
        """The sum of each process's values (…), differentiable any number of times."""
        total: Tensor = _Summed.apply(values, self.add)
        return total

    def agrees(self, number: int, device: torch.device) -> bool:
        """Whether all processes say the same number."""
        own = torch.tensor([number], device=device)
        said = self.gathered(own, self.share(self.size), self.size)
        return bool((said == number).all())

    def gathered(self, own: Tensor, share: Share, total: int) -> Tensor:
        """All rows (total, …) of which each process has its share, (n, …). Not differentiable."""
        if self.size == 1 or share.repeated:
            return own
        rows = own.new_zeros((total, *own.shape[1:]))
        rows[share.rows] = own
        self.add(rows)
        return rows


ALONE = Group()


@dataclass(frozen=True, kw_only=True)
class Share:
    """Rows of a batch, and what they count for in it."""

    group: Group
    rows: slice
    weight: float
    """Of the mean over these rows in the mean over the batch, as a sum over the processes."""
    repeated: bool = False
    """Whether every process has all rows."""

    @property
    def once(self) -> float:
        """What a row counts for in a sum over the processes."""
        return self.weight if self.repeated else 1.0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the batch, (1, …), of values (n, …) of these rows, differentiable any number of
        times."""
        own = values.mean(dim=0, keepdim=True)
        return own if self.group.size == 1 else self.group.summed(self.weight * own)


class _Summed(torch.autograd.Function):
    """y = Σ x_r. In process r, dL/dx_r = Σ_s dL_s/dy for L = Σ L_s: its gradient is a sum again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, add: Callable[[Tensor], None]) -> Tensor:
        ctx.add = add
        total = values.detach().clone(memory_format=torch.contiguous_format)
        add(total)
        return total

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (cotangent,) = cotangents
        total: Tensor = _Summed.apply(cotangent, ctx.add)
        return total, None
