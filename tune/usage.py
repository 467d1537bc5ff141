"""What a process takes while it computes a stage, measured by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_S = 0.5
MIB = 2**20
CONTEXT_MIB = 600.0
"""Of a GPU, that a process takes which uses it, beside what PyTorch's allocator holds; roughly."""


@dataclass(kw_only=True)
class Usage:
    """All zero until it is known."""

    cpu_percent: float = 0.0
    """Mean over the time; 100 is one core."""
    memory_mib: float = 0.0
    """Most of what the process has held, of samples half a second apart."""
    gpu_memory_mib: float = 0.0
    """Most of what PyTorch's allocator has held; 0 without a GPU."""
    gpu_share: float = 0.0
    """Of the GPU's memory, what that and the process's own context are; of several, of the fullest.
    """


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """The process's usage from here to the end of the block, known then."""
    usage, done = Usage(memory_mib=resident_mib()), threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            usage.memory_mib = max(usage.memory_mib, resident_mib())

    reset_gpus()
    sampler = threading.Thread(target=sample, daemon=True, name="usage")
    cpu, start = time.process_time(), time.perf_counter()
    sampler.start()
    try:
        yield usage
    finally:
        elapsed = time.perf_counter() - start
        usage.cpu_percent = 100 * (time.process_time() - cpu) / elapsed if elapsed else 0.0
        done.set()
        sampler.join()
        usage.memory_mib = max(usage.memory_mib, resident_mib())
        held = held_by_gpu()
        usage.gpu_memory_mib = sum(own for own, _ in held)
        usage.gpu_share = max(((own + CONTEXT_MIB) / total for own, total in held), default=0.0)


def resident_mib() -> float:
    """Of this process now; where the system does not say, at most until now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / MIB if sys.platform == "darwin" else most / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def held_by_gpu() -> list[tuple[float, float]]:
    """MiB that PyTorch has held at most since the last reset, and that there are, of each GPU."""
    cuda = _cuda()
    if cuda is None:
        return []
    return [
        (
            cuda.max_memory_reserved(device) / MIB,
            cuda.get_device_properties(device).total_memory / MIB,
        )
        for device in range(cuda.device_count())
    ]


def reset_gpus() -> None:
    """What was held at most is what is held now, which is as little as can be."""
    cuda = _cuda()
    if cuda is None:
        return
    cuda.empty_cache()
    for device in range(cuda.device_count()):
        cuda.reset_peak_memory_stats(device)


def _cuda() -> Any:
    """torch.cuda, where this process uses it; else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
