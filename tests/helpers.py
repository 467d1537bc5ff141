"""What tests of several files share."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def number(value: Tensor) -> float:
    return float(value.detach())


def relative_error(value: Tensor | None, wanted: Tensor) -> float:
    """Of the whole tensor."""
    assert value is not None
    assert value.shape == wanted.shape and value.dtype == wanted.dtype
    return float((value - wanted).norm() / wanted.norm())


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    assert set(ours) == set(theirs)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def randomised(network: nn.Module, seed: int = 0, weights: float = 1.0) -> Any:
    """In double precision, weights and biases (0.3) drawn from a generator."""
    generator = draws(seed)
    for parameter in network.parameters():
        values = torch.empty(parameter.shape, dtype=torch.float64).normal_(generator=generator)
        parameter.data = values * (weights if parameter.ndim > 1 else 0.3)
    return network.double()


def files(root: Path) -> dict[str, Any]:
    """Every file of a store; of stage.json all but the time."""
    found: dict[str, Any] = {}
    for path in root.rglob("*"):
        if path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
        if path.name == "stage.json":
            record = json.loads(path.read_text())
            del record["seconds"], record["sha256"]
            found[str(path.relative_to(root))] = record
    return found


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )


@contextlib.contextmanager
def signals_as_usual() -> Iterator[None]:
    """What asks a process to end does so, here and in those that are started meanwhile: `nohup`
    and a shell's `&` have some of it ignored."""
    usual = {signal.SIGINT: signal.default_int_handler}
    asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, usual.get(n, signal.SIG_DFL)) for n in asking}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def imported(path: Path, *, when_loaded: bool = False) -> set[str]:
    """Modules that a file imports, and names that it takes from them; `when_loaded`: only those at
    the top level of the file."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if when_loaded else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
