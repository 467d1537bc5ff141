"""Random numbers of an attack that do not depend on the batch that a sample is in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]


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
    return out.uniform_(generator=draws)


def _normal(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    return out.normal_(generator=draws)


def _between(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    low, high = _pair(args, kwargs, ("from", "to"), 1.0)
    return out.uniform_(low, high, generator=draws)


def _around(out: Tensor, draws: torch.Generator, args: Arguments, kwargs: Options) -> Tensor:
    mean, std = _pair(args, kwargs, ("mean", "std"), 1.0)
    return out.normal_(mean, std, generator=draws)


DRAWS: Mapping[Any, Draw] = {
    torch.rand: Draw(_empty, _uniform),
    torch.rand_like: Draw(_empty_like, _uniform),
    torch.randn: Draw(_empty, _normal),
    torch.randn_like: Draw(_empty_like, _normal),
    torch.Tensor.uniform_: Draw(_itself, _between),
    torch.Tensor.normal_: Draw(_itself, _around),
}


class SharedDraws(TorchFunctionMode):
    """Give every sample of a batch the same random numbers, from a generator of its own.

    torchattacks draws tensors as large as the batch, so a sample's random start would change with
    its neighbours and with the batch size. Inside this mode a draw of two or four dimensions (rows
    of logits, images) is drawn for one sample and repeated, so each sample sees the numbers that it
    would see alone; other draws (Square's window) are shared anyway. The numbers come from the CPU,
    so they are the same on every device, and the global generators are not touched.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draws = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        draw = DRAWS.get(func)
        if draw is None:
            return func(*args, **kwargs)
        result = draw.allocate(args, kwargs)
        shape = (1, *result.shape[1:]) if result.ndim in (2, 4) else result.shape
        row = draw.fill(torch.empty(shape, dtype=result.dtype), self._draws, args, kwargs)
        with torch.no_grad():
            result.copy_(row.expand_as(result))
        return result
