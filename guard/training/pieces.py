"""A mean over samples, and its gradient, a piece of the batch at a time: less memory, same sums."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def in_pieces(
    mean_of: Callable[[Tensor, Tensor], Tensor],
    parameters: Sequence[Tensor],
    x: Tensor,
    y: Tensor,
    count: int,
) -> Tensor:
    """mean_of(x, y), a scalar, differentiable once in the parameters; exact where it is a mean over
    samples that do not see one another. Each piece's graph is gone before the next one's is made.

    x: (B, C, H, W); y: (B,); count: pieces, at most B are made.
    """
    total, sums = x.new_zeros(()), [torch.zeros_like(parameter) for parameter in parameters]
    for own_x, own_y in zip(x.chunk(count), y.chunk(count), strict=True):
        value = mean_of(own_x, own_y) * (len(own_x) / len(x))
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        total += value.detach()
        for so_far, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                so_far += gradient
    value = _Known.apply(total, sums, *parameters)
    assert isinstance(value, Tensor)
    return value


class _Known(torch.autograd.Function):
    """A value whose gradients in the parameters are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = cotangents
        return (None, None, *(cotangent * gradient for gradient in ctx.gradients))


def within_memory(run: Callable[[int], T], most: int) -> T:
    """run(1); after torch.OutOfMemoryError run(2), run(4), …, up to `most`, from the beginning or
    from what it has kept. Raises the last error."""
    count = 1
    while True:
        try:
            return run(count)
        except torch.OutOfMemoryError:
            if count >= most:
                raise
        count = min(2 * count, most)
        gc.collect()  # what the failed run held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
