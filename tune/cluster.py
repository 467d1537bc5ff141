"""Starting Ray or joining one, quietly and with a bounded wait."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import worker

from guard.errors import StudyError
from tune.desk import NAMESPACE
from tune.local import short_folder, start_local
from tune.resources import COORDINATOR_CPUS, StageResources

ANSWER_TIMEOUT_S = 5.0
PACKAGES = ("guard", "tune", "studies")
NOT_SHIPPED = ("/results/*/*",)
"""Ray holds these against paths inside each package: a folder of studies/results is no code, and
tune/results is a flat package."""


def check_address(address: str) -> None:
    """Raises StudyError if nothing answers at host:port within 5 seconds."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isascii() or not port.isdigit():
        raise StudyError(
            "--address: must be host:port of the head node, or auto, run on a machine of the "
            f"cluster; got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError, ValueError) as error:  # idna refuses names with a ValueError
        raise StudyError(f"--address: no Ray answers at {address} ({error})") from None


@contextlib.contextmanager
def started(address: str | None, *, verbose: bool = False) -> Iterator[None]:
    """A local Ray on all cores (`tune.local`), or the cluster at `address`; left again at the end.

    Raises StudyError if the one does not start or the other cannot be joined, and KeyboardInterrupt
    if SIGTERM comes meanwhile.
    """
    level = logging.INFO if verbose else logging.CRITICAL
    quiet = contextlib.nullcontext if verbose else silent_stderr
    aside = contextlib.nullcontext if verbose else events_aside
    options = {"namespace": NAMESPACE, "log_to_driver": verbose, "logging_level": level}
    place = short_folder() if address is None else contextlib.nullcontext("")
    with place as folder, aside():
        try:
            with quiet(), own_sigterm():
                start(address, folder, options)
            for name in ("ray", "ray.tune", "ray.train", "ray.data"):
                logging.getLogger(name).setLevel(level)
            yield
        finally:
            with quiet():
                ray.shutdown()


def start(address: str | None, folder: str, options: Mapping[str, Any]) -> None:
    """Join the cluster, or start a Ray that keeps its files in the folder. Raises StudyError."""
    try:
        if address is None:
            start_local(folder, options)
        else:
            ray.init(address=address, runtime_env=shipped_code(), **options)
    except Exception as error:  # of the operating system, of Ray, or a bare one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        told = f"--address: cannot join Ray at {address}" if address else "Ray does not start here"
        raise StudyError(f"{told} ({reason})") from None


@contextlib.contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does; `ray.init` has it end the process with SystemExit."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)


def has_gpus(address: str) -> bool:
    """Whether a machine of the cluster has one now. Raises StudyError, see `started`."""
    with started(address):
        return bool(ray.cluster_resources().get("GPU", 0.0) > 0)


def num_slots(resources: StageResources) -> int:
    """Stages of the default size that the running cluster holds at once; where they share GPUs, at
    most."""
    total = ray.cluster_resources()
    wanted = resources.default
    slots = total.get("CPU", 0) // max(wanted.cpus, COORDINATOR_CPUS)
    if resources.smallest_gpus:
        slots = min(slots, total.get("GPU", 0) // resources.smallest_gpus)
    return max(int(slots), 1)


@contextlib.contextmanager
def events_aside() -> Iterator[None]:
    """Have what Ray says of machines that die, and prints on stdout, go where its native code
    writes: to file descriptor 2."""
    usual = worker.print_to_stdstream

    def print_aside(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        os.write(2, "".join(f"{line}\n" for line in data["lines"]).encode())

    worker.print_to_stdstream = print_aside
    try:
        yield
    finally:
        worker.print_to_stdstream = usual


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send what native code writes to stderr, which no Python logger sees, to nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def shipped_code() -> dict[str, list[str]]:
    """A runtime environment that brings this project's packages, without the tables and pictures of
    studies/results, to every node."""
    root = Path(__file__).resolve().parents[1]
    modules = [str(root / name) for name in PACKAGES]
    return {"py_modules": modules, "excludes": list(NOT_SHIPPED)}
