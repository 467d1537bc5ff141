"""One of several processes that work together; `guard.processes` starts it with its order."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import torch
from torch import Tensor, distributed

from guard.group import Group
from guard.processes import Answer, Order

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def main() -> None:
    """Do the work, and leave the answer where the order says."""
    order: Order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=end_with_parent, daemon=True).start()
    answer = worked(order)
    unfinished = order.answer.with_suffix(".part")
    unfinished.write_bytes(pickled(answer))
    unfinished.rename(order.answer)


def end_with_parent() -> None:
    """Wait until the process that started this one ends, and go with it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)


def worked(order: Order) -> Answer:
    """What the work returned or raised; the error's trace is a note of it."""
    try:
        with joined(order) as group:
            value = order.work(group)
        return Answer(moment=time.monotonic(), value=value)
    except Exception as error:
        moment = time.monotonic()
        error.add_note(f"in process {order.rank + 1} of {order.size}:\n{traceback.format_exc()}")
        return Answer(moment=moment, error=error)


def pickled(answer: Answer) -> bytes:
    """The answer; an error that cannot be pickled and read again becomes one with its text."""
    try:
        content = pickle.dumps(answer)
        pickle.loads(content)
    except Exception:
        told = RuntimeError(f"{type(answer.error).__name__}: {answer.error}")
        content = pickle.dumps(Answer(moment=answer.moment, error=told))
    return content


@contextlib.contextmanager
def joined(order: Order) -> Iterator[Group]:
    """The group of all processes with this order."""
    if order.device == "cuda":
        torch.cuda.set_device(order.rank)
    distributed.init_process_group(
        BACKENDS[order.device],
        init_method=order.meeting_place.as_uri(),
        rank=order.rank,
        world_size=order.size,
    )
    yield Group(rank=order.rank, size=order.size, add=add)
    distributed.destroy_process_group()


def add(values: Tensor) -> None:
    """As of `Group.add`."""
    distributed.all_reduce(values)


if __name__ == "__main__":
    main()
