"""Work that several processes of this machine do together, started for it and ended with it.

They are fresh interpreters (`guard.member`), so they depend on nothing of the one that starts them:
a script, a notebook, a worker of Ray's. None outlives it, however it ends: the standard input of
each is a pipe from here, and a process whose pipe is closed ends itself and all that it started.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from guard.group import Group

POLL_S = 0.05
T = TypeVar("T")


class ProcessLost(Exception):
    """A process that ended without an answer: it was killed, or by a fault of its own."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a process is started for."""

    rank: int
    size: int
    device: str
    """Name of a kind of device, of which each process has one of its own, but for "cpu"."""
    folder: Path
    """Where they meet and answer; on this machine."""
    work: Callable[[Group], Any]

    @property
    def meeting_place(self) -> Path:
        return self.folder / "store"

    @property
    def answer(self) -> Path:
        return self.folder / f"answer-{self.rank}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a process has to say at its end."""

    moment: float
    """By the machine's monotonic clock."""
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """A process that has been started."""

    order: Order
    process: subprocess.Popen[bytes]

    @property
    def has_ended(self) -> bool:
        """Said without giving its number free, where the system can."""
        if not hasattr(os, "waitid"):
            return self.process.poll() is not None
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, how) is not None

    def answer(self) -> Answer | None:
        """Of one that has ended; None where it ended without one."""
        if not self.order.answer.is_file():
            return None
        found: Answer = pickle.loads(self.order.answer.read_bytes())
        return found

    @property
    def has_failed(self) -> bool:
        """Of one that has ended."""
        answer = self.answer()
        return answer is None or answer.error is not None

    def loss(self) -> ProcessLost:
        """Why there is no answer."""
        code = self.process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return ProcessLost(f"process {self.order.rank + 1} of {self.order.size} was ended {how}")


def in_processes(work: Callable[[Group], T], size: int, device: str) -> T:
    """What `work`, which must be importable, returns in the first of `size` processes.

    device: "cpu" (gloo), or "cuda" (nccl), of which each process has one. As soon as a process
    fails the others are ended. Raises what the first to fail has raised, ProcessLost if it was
    ended from outside, and ValueError for fewer devices than processes.
    """
    check_devices(size, device)
    with tempfile.TemporaryDirectory(prefix="guard-") as name:
        orders = [
            Order(rank=rank, size=size, device=device, folder=Path(name), work=work)
            for rank in range(size)
        ]
        with contextlib.ExitStack() as stack:
            members = [stack.enter_context(started(order)) for order in orders]
            ended: list[Member] = []
            while len(ended) < size and not any(member.has_failed for member in ended):
                time.sleep(POLL_S)
                ended = [member for member in members if member.has_ended]
        value: T = outcome(ended)
        return value


def outcome(ended: list[Member]) -> Any:
    """What the first process returned. Raises for the one that failed first: others may have failed
    because it had gone."""
    answers = [member.answer() for member in ended]
    for member, answer in zip(ended, answers, strict=True):
        if answer is None:
            raise member.loss()
    failed = [answer for answer in answers if answer is not None and answer.error is not None]
    if failed:
        first = min(failed, key=lambda answer: answer.moment)
        assert first.error is not None
        raise first.error
    assert answers[0] is not None
    return answers[0].value


def check_devices(size: int, device: str) -> None:
    """Raises ValueError for fewer devices than processes."""
    found = torch.cuda.device_count() if device == "cuda" else size
    if found < size:
        raise ValueError(f"{size} processes want a GPU each, and this one sees {found}")


@contextlib.contextmanager
def started(order: Order) -> Iterator[Member]:
    """A process in a session of its own, so that signals of a terminal do not reach it; it and what
    it has started are gone at the end."""
    command = [sys.executable, "-P", "-m", "guard.member"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment(), start_new_session=True
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            process.stdin.write(pickle.dumps(order))
            process.stdin.flush()
        yield Member(order=order, process=process)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none of them is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def environment() -> dict[str, str]:
    """This process's, with its path to modules. What the processes say to one another does not
    leave the machine."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    names = (name for _, name in socket.if_nameindex() if name.startswith("lo"))
    loopback = next(names, "lo")
    interfaces = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    return {**os.environ, "PYTHONPATH": path, **interfaces}
