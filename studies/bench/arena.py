"""A study's command, and all around it that may fail: a cluster, an MLflow server, a disk."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from studies.bench.machines import ENVIRONMENT, Cluster, free_port, kill

SETTINGS = (
    "squeeze.epochs=10",
    "student.train.epochs=20",
    "sre2l.iterations=50",
    "evaluation.attacks=fgsm",
    "evaluation.diagnose=false",
    "method=sre2l",
    "ipc=1",
    "seed=choice(0, 1, 2)",
    "regularizer.weight=0.3",
    "regularizer.h=choice(0.1, 0.3)",
    "confirm.attacks=fgsm",
    "confirm.seeds=1",
)
STUDY = "digits"
MACHINES = ("first", "second")
DISK_MIB = 256


@dataclass(kw_only=True)
class Arena:
    """What faults strike."""

    output: Path
    """On a file system of its own, if there may be one."""
    cluster: Cluster
    tracking: Tracking
    draws: random.Random
    has_disk: bool
    driver: subprocess.Popen[bytes] | None = None
    said: list[str] = field(default_factory=list)
    """The last lines of every driver that has ended badly."""

    def start(self) -> None:
        """The study's command."""
        address = ("--address", self.cluster.address, "--device", "cpu")
        self.driver = subprocess.Popen(
            [*study_command(self.output), *address, "--tracking-uri", self.tracking.uri],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self, timeout_s: float) -> int | None:
        """The exit code of the command; None while it runs."""
        assert self.driver is not None
        try:
            told, _ = self.driver.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if self.driver.returncode:
            self.said.append(f"{self.driver.returncode}: {told.decode()[-600:]}")
        return self.driver.returncode

    def one_of(self, what: str) -> str:
        """Kill a process of the cluster with such a name; "" if there is none."""
        found = self.cluster.running(what)
        if not found:
            return ""
        process = self.draws.choice(found)
        kill(process)
        return f"process {process.pid}"

    def stored(self) -> list[Path]:
        """Every file of a published result."""
        files = (self.output / "artifacts").glob("*/[!.]*/**/*")
        return sorted(file for file in files if file.is_file())


class Tracking:
    """An MLflow server."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.uri = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = mlflow_command(self._folder, self._port)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def mlflow_command(folder: Path, port: int) -> list[str]:
    """Of a server that keeps everything in the folder."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    return [*command, "--artifacts-destination", str(folder / "server")]


def study_command(output: Path) -> list[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "studies.sweep", "--sampler", "grid", "--name", STUDY]
    return [*command, "--output", str(output), *settings]


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small file system in the folder, if this process may make one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}M", "none", str(folder)]
    is_there = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield is_there
    finally:
        if is_there:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def arena_in(folder: Path, seed: int) -> Iterator[Arena]:
    """A cluster, a server and a place of their own."""
    folder.mkdir(parents=True)
    cluster, tracking = Cluster(folder), Tracking(folder, free_port())
    with disk(folder / "disk") as has_disk:
        try:
            cluster.start()
            for name in MACHINES:
                cluster.join(name, 1)
            tracking.start()
            yield Arena(
                output=folder / "disk" / "runs",
                cluster=cluster,
                tracking=tracking,
                draws=random.Random(seed),
                has_disk=has_disk,
            )
        finally:
            tracking.stop()
            cluster.stop()
