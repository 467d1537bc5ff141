"""Machines of a Ray cluster as processes of this one: they come, compute, and are killed."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

HEAD = "head"
START_TIMEOUT_S = 180.0
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Cluster:
    """A head that computes nothing, and machines that come and go."""

    def __init__(self, folder: Path) -> None:
        """folder: for what the machines say."""
        self.folder = folder
        self.address = ""
        self._machines: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """The head, on a free port."""
        arguments = ("--head", f"--port={free_port()}", "--num-cpus=0", "--include-dashboard=false")
        told = self._start(HEAD, *arguments)
        found = re.search(r"ray start --address='([^']+)'", told)
        assert found, told
        self.address = found[1]

    def join(
        self, name: str, cpus: int, gpus: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        """environment: what this machine has besides this process's own."""
        amounts = (f"--num-cpus={cpus}", f"--num-gpus={gpus}")
        self._start(name, f"--address={self.address}", *amounts, environment=environment)

    def kill(self, name: str) -> None:
        """At once, with everything that runs on it."""
        machine = self._machines.pop(name)
        for process in processes(machine.pid):
            kill(process)
        machine.kill()
        machine.wait()

    def stop(self) -> None:
        for name in reversed(list(self._machines)):
            self.kill(name)

    def running(self, what: str, *names: str) -> list[psutil.Process]:
        """Processes of the machines with a command line that begins so; of all machines, if none is
        named."""
        machines = [self._machines[name] for name in names] or self._machines.values()
        every = (process for machine in machines for process in processes(machine.pid))
        return [process for process in every if command(process).startswith(what)]

    def _start(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> str:
        """What `ray start` says."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            machine = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", "--block", *arguments],
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._machines[name] = machine
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"Ray runtime started" not in log.read_bytes():
            if time.monotonic() > deadline or machine.poll() is not None:
                raise TimeoutError(log.read_text(encoding="utf-8"))
            time.sleep(0.5)
        return log.read_text(encoding="utf-8")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def processes(pid: int) -> Iterator[psutil.Process]:
    """All below a process."""
    with contextlib.suppress(psutil.Error):
        yield from psutil.Process(pid).children(recursive=True)


def command(process: psutil.Process) -> str:
    """The command line, which Ray's workers change; "" for a process that has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
