"""Time, work and memory of a computation, on any device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Computation = Callable[[], object]
MIB = 2**20


class Account(TorchDispatchMode):
    """FLOPs of convolutions and matrix products, backward included, and the most bytes of tensors
    that live at once, beyond those that were there before. What a kernel allocates inside itself is
    not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        before = {leaf.untyped_storage().data_ptr() for leaf in tensors((args, kwargs))}
        result = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        for leaf in tensors(result):
            storage = leaf.untyped_storage()
            if storage.data_ptr() not in before:
                self._live[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one call takes."""

    seconds: float
    """Median of the rounds."""
    ratio: float
    """To the first of its group: the median of the ratios within each round."""
    flops: int
    mebibytes: float
    """Peak of what it allocates."""


def measure(
    computations: Mapping[str, Computation], rounds: int, device: torch.device
) -> dict[str, Cost]:
    """The cost of each computation. They take turns, so that a change of the machine's speed hits
    them all; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in computations}
    for number in range(rounds + 1):
        for name, compute in computations.items():
            taken = timed(compute, device)
            if number:
                seconds[name].append(taken)
    first = next(iter(computations))
    costs = {}
    for name, compute in computations.items():
        pairs = zip(seconds[name], seconds[first], strict=True)
        ratio = statistics.median(own / base for own, base in pairs)
        median = statistics.median(seconds[name])
        counts = account(compute)
        peak = cuda_peak(compute, device) if device.type == "cuda" else counts.peak
        costs[name] = Cost(seconds=median, ratio=ratio, flops=counts.flops, mebibytes=peak / MIB)
    return costs


def timed(compute: Computation, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    compute()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def account(compute: Computation) -> Account:
    counts = Account()
    with counts:
        compute()
    return counts


def cuda_peak(compute: Computation, device: torch.device) -> int:
    """Bytes of CUDA's allocator."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    compute()
    return torch.cuda.max_memory_allocated(device) - before
