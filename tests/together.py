"""A group whose processes are threads: what each gives to the others goes through memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

from guard.group import Group
from guard.models.folding import convolved
from guard.models.synchronized import SynchronizedBatchNorm, synchronize

T = TypeVar("T")
TIMEOUT_S = 30.0


def in_threads(work: Callable[[Group], T], size: int) -> list[T]:
    """What `work` returns in each process of a group. Raises what it raises."""
    barrier, given = threading.Barrier(size, timeout=TIMEOUT_S), [torch.empty(0)] * size

    def process(rank: int) -> T:
        def add(values: Tensor) -> None:
            assert values.is_contiguous()
            given[rank] = values.detach().clone()
            barrier.wait()
            assert len({(other.shape, other.dtype) for other in given}) == 1
            total = torch.stack(given).sum(dim=0, dtype=values.dtype)
            barrier.wait()
            with torch.no_grad():
                values.copy_(total)

        torch.autograd.set_multithreading_enabled(False)
        try:
            return work(Group(rank=rank, size=size, add=add))
        except threading.BrokenBarrierError:
            raise
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(process, rank) for rank in range(size)]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None and not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]


def synchronized(model: nn.Module, size: int) -> list[nn.Module]:
    """A copy of the model for each process, every BatchNorm synchronized; `joined` says with whom.
    Tracing a network is not for several threads at once, so that is done here."""
    copies = [copy.deepcopy(model) for _ in range(size)]
    for own in copies:
        synchronize(own, Group())
        convolved(own)
    return copies


def joined(copies: list[nn.Module], group: Group) -> nn.Module:
    """The copy of a process."""
    model = copies[group.rank]
    for module in model.modules():
        if isinstance(module, SynchronizedBatchNorm):
            module.group = group
    return model
