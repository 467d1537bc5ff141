"""Starting Ray or joining one, quietly and with a bounded wait."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import ray

from guard.errors import StudyError
from tune.desk import NAMESPACE

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
    if "://" in address or not host or not port.isdigit():
        raise StudyError(
            "--address: must be host:port of the head node, or auto, run on a machine of the "
            f"cluster; got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise StudyError(f"--address: no Ray answers at {address} ({error})") from None


@contextlib.contextmanager
def started(address: str | None, *, verbose: bool = False) -> Iterator[None]:
    """A local Ray on all cores, or the cluster at `address`; left again at the end.

    Raises StudyError if the cluster cannot be joined.
    """
    level = logging.INFO if verbose else logging.CRITICAL
    quiet = contextlib.nullcontext if verbose else silent_stderr
    try:
        with quiet():
            ray.init(
                address=address or "local",
                namespace=NAMESPACE,
                include_dashboard=False if address is None else None,
                log_to_driver=verbose,
                logging_level=level,
                runtime_env=None if address is None else shipped_code(),
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StudyError(f"--address: cannot join Ray at {address} ({reason})") from None
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        with quiet():
            ray.shutdown()


def has_gpus(address: str) -> bool:
    """Whether a machine of the cluster has one now. Raises StudyError, see `started`."""
    with started(address):
        return bool(ray.cluster_resources().get("GPU", 0.0) > 0)


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
