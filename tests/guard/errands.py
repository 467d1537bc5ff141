"""Work for processes of a group, and ways in which it goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from guard.errors import Diverged
from guard.group import Group

LONG_S = 120.0


def said_to_one_another(group: Group) -> tuple[int, int, list[float]]:
    """Rank and size, and 1 + 2 + … + size from each in both types that are sent."""
    values, pixels = torch.full((3,), group.rank + 1.0), torch.ones(2, dtype=torch.uint8)
    group.add(values)
    group.add(pixels)
    return group.rank, group.size, [*values.tolist(), *pixels.tolist()]


def note(folder: Path, group: Group) -> None:
    """Leave this process's number, and that of one that it starts as loaders of images are."""
    other = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG_S})"])
    (folder / f"{group.rank}.part").write_text(f"{os.getpid()} {other.pid}")
    (folder / f"{group.rank}.part").rename(folder / f"{group.rank}.pids")


def diverge_alone(folder: Path, group: Group) -> None:
    """The second process raises what the others do not; they wait for it."""
    note(folder, group)
    if group.rank == 1:
        raise Diverged("the loss became nan")
    group.add(torch.zeros(1))


def killed_alone(folder: Path, group: Group) -> None:
    note(folder, group)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.add(torch.zeros(1))


class Unreadable(Exception):
    """Is pickled, and cannot be read again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def wait(folder: Path, group: Group) -> None:
    note(folder, group)
    time.sleep(LONG_S)
