"""Where a stage runs, and the switches that make it give the same bytes each time."""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from guard.config import ComputeConfig


def is_here(device: str) -> bool:
    """Whether this machine, as far as this process may see it, has a device of that name."""
    if device == "cuda":
        return torch.cuda.is_available()
    return device == "cpu" or (device == "mps" and torch.backends.mps.is_available())


def available_device(wanted: str) -> str:
    """A device name for `auto`, or the wanted one. Raises ValueError if it is not there."""
    if wanted == "auto":
        return "cuda" if is_here("cuda") else "cpu"
    if not is_here(wanted):
        here = ", ".join(filter(is_here, ("cuda", "mps", "cpu")))
        raise ValueError(f"no device {wanted!r} on this machine; there are: {here}")
    return wanted


def has_bfloat16(device: str) -> bool:
    """Whether this machine's device of that name multiplies in bfloat16 itself."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def has_compiler(device: str) -> bool:
    """Whether torch can compile for this machine's device of that name: with a C++ compiler and
    Python's headers for a CPU, with Triton and a C compiler for CUDA."""
    if device == "cuda":
        return find_spec("triton") is not None and _finds("CC", "gcc", "clang")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return device == "cpu" and headers.is_file() and _finds("CXX", "g++", "clang++")


def _finds(variable: str, *commands: str) -> bool:
    """Whether the program that a variable of the environment names is there, or one of these."""
    named = os.environ.get(variable)
    return any(shutil.which(command) for command in ([named] if named else commands))


def memory_bytes() -> int:
    """What this machine has, or this container may use of it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return found


def setup(config: ComputeConfig) -> torch.device:
    """Prepare this thread and its process for a stage, and return the device. Raises ValueError if
    it is not there.

    Autograd's own thread for a GPU is not used: it counts its operations apart from the caller's,
    so in a double backward pass the order in which gradients are summed up, and with it their last
    bits, would depend on what the process had computed before.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.num_threads)
    torch.set_flush_denormal(True)  # a collapsing network is 5 to 10 times slower without it
    torch.autograd.set_multithreading_enabled(False)
    fast = config.mode == "fast"
    torch.backends.cudnn.benchmark = fast
    torch.backends.cudnn.deterministic = not fast
    torch.backends.cudnn.allow_tf32 = fast or config.tf32
    torch.backends.cuda.matmul.allow_tf32 = fast or config.tf32
    return torch.device(available_device(config.device))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
