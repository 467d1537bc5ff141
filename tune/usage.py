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

SAMPLE_S = 0.5
MIB = 2**20


@dataclass(kw_only=True)
class Usage:
    """All zero until it is known."""

    cpu_percent: float = 0.0
    """Mean over the time; 100 is one core."""
    memory_mib: float = 0.0
    """Most of what the process has held, of samples half a second apart."""
    gpu_memory_mib: float = 0.0
    """Most of what PyTorch's allocator has held; 0 without a GPU."""


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """The process's usage from here to the end of the block, known then."""
    usage, done = Usage(memory_mib=resident_mib()), threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            usage.memory_mib = max(usage.memory_mib, resident_mib())

    gpu_peak(reset=True)
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
        usage.gpu_memory_mib = gpu_peak()


def resident_mib() -> float:
    """Of this process now; where the system does not say, at most until now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / MIB if sys.platform == "darwin" else most / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def gpu_peak(*, reset: bool = False) -> float:
    """MiB that PyTorch has held at most since the last reset, on every GPU that it uses."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    devices = range(torch.cuda.device_count())
    if reset:
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
    return float(sum(torch.cuda.max_memory_reserved(device) for device in devices)) / MIB
