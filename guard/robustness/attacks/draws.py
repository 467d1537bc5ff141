"""Random numbers of an attack that do not depend on the batch that a sample is in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]

UNIFORM, NORMAL = torch.Tensor.uniform_, torch.Tensor.normal_
"""As they are outside of `shared_draws`."""


@dataclass(frozen=True)
class Draw:
    """How one of torch's functions is replaced."""

    allocate: Callable[[Arguments, Options], Tensor]
    """The tensor that it fills or returns, whatever is in it."""
    fill: Callable[[Tensor, torch.Generator, Arguments, Options], Tensor]


def _empty(args: Arguments, kwargs: Options) -> Tensor:
    return torch.empty(*args, **{k: v for k, v in kwargs.items() if k != "generator"})


def _empty_like(args: Arguments, kwargs: Options) -> Tensor:
    return torch.empty_like(*args, **kwargs)


def _itself(args: Arguments, kwargs: Options) -> Tensor:
    own: Tensor = args[0]
    return own


def _pair(args: Arguments, kwargs: Options, names: tuple[str, str], default: float) -> list[float]:
    """The two numbers of `uniform_` or `normal_`, given by place or by name."""
    given = dict(zip(names, args[1:], strict=False)) | dict(kwargs)
    return [given.get(name, value) for name, value in zip(names, (0.0, default), strict=True)]


def _uniform(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    return UNIFORM(out, generator=draws)


def _normal(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    return NORMAL(out, generator=draws)


def _between(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    low, high = _pair(args, kwargs, ("from", "to"), 1.0)
    return UNIFORM(out, low, high, generator=draws)


def _around(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    mean, std = _pair(args, kwargs, ("mean", "std"), 1.0)
    return NORMAL(out, mean, std, generator=draws)


DRAWS: Mapping[tuple[Any, str], Draw] = {
    (torch, "rand"): Draw(_empty, _uniform),
    (torch, "rand_like"): Draw(_empty_like, _uniform),
    (torch, "randn"): Draw(_empty, _normal),
    (torch, "randn_like"): Draw(_empty_like, _normal),
    (torch.Tensor, "uniform_"): Draw(_itself, _between),
    (torch.Tensor, "normal_"): Draw(_itself, _around),
}
"""By where an attack looks the function up."""


@contextlib.contextmanager
def shared_draws(seed: int) -> Iterator[None]:
    """Give every sample of a batch the same random numbers, from a generator of its own.

    torchattacks draws tensors as large as the batch, so a sample's random start would change with
    its neighbours and with the batch size. Inside this block a draw of two or four dimensions (rows
    of logits, images) is drawn for one sample and repeated, so each sample sees the numbers that it
    would see alone; other draws (Square's window) are shared anyway. The numbers come from the CPU,
    so they are the same on every device, and the global generators are not touched. Other threads
    draw as ever.
    """
    draws, thread = torch.Generator().manual_seed(seed), threading.get_ident()

    def shared(draw: Draw, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*args: Any, **kwargs: Any) -> Tensor:
            if threading.get_ident() != thread:
                return original(*args, **kwargs)
            result = draw.allocate(args, kwargs)
            shape = (1, *result.shape[1:]) if result.ndim in (2, 4) else result.shape
            row = draw.fill(torch.empty(shape, dtype=result.dtype), draws, args, kwargs)
            with torch.no_grad():
                result.copy_(row.expand_as(result))
            return result

        return drawn

    before = {place: getattr(*place) for place in DRAWS}
    try:
        for (owner, name), draw in DRAWS.items():
            setattr(owner, name, shared(draw, before[owner, name]))
        yield
    finally:
        for (owner, name), original in before.items():
            setattr(owner, name, original)
