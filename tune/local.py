"""A Ray for this machine and this user alone, wherever there is room for it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private.utils import detect_fate_sharing_support

from guard.errors import StudyError

PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where Ray's folder may be, after $RAY_TMPDIR and $TMPDIR."""
LONGEST_BYTES = 24
"""Of such a place: the address of a socket has at most 103 bytes, and below the place there is
"/ray-xxxxxxxx/r/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store"."""
LEAST_FREE_BYTES = 16 * 2**20
TOKEN = "RAY_AUTH_TOKEN"
SETTINGS = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
    "RAY_num_workers_soft_limit": "1000",
}
"""Of Ray's, where a user has set nothing else. After so long without its head, whose process has
died, nobody starts it again here. So many processes are kept when they are idle for a second: Ray
keeps one a CPU, coordinators among them, and a new one loads PyTorch again for its first stage."""


def start_local(folder: str, options: Mapping[str, Any]) -> None:
    """Start Ray without a dashboard. It keeps what it writes in the folder, listens on the loopback
    interface only, asks for a token, which only this process's children know, and hears no signal
    of the terminal's."""
    if f"{TOKEN}_PATH" not in os.environ:
        os.environ.setdefault(TOKEN, secrets.token_hex(32))  # or it would be kept in the home
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with secluded():
        ray.init(address="local", include_dashboard=False, _temp_dir=f"{folder}/r", **options)


class OwnGroup(services.ConsolePopen):
    """A process that leads a group."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, process_group=0, **options)


@contextlib.contextmanager
def secluded() -> Iterator[None]:
    """Let Ray do what it does on Windows, and has no option for elsewhere: choose 127.0.0.1, and
    start its processes in groups of their own, so that a terminal's Ctrl-C, or its end, reaches the
    study and not the Ray below it. Where the kernel does not end them with it, they stay in its."""
    usual = ray_constants.ENABLE_RAY_CLUSTER, services.ConsolePopen
    ray_constants.ENABLE_RAY_CLUSTER = False
    if detect_fate_sharing_support():
        services.ConsolePopen = OwnGroup  # type: ignore[misc]
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, services.ConsolePopen = usual  # type: ignore[misc]


@contextlib.contextmanager
def short_folder() -> Iterator[str]:
    """A new folder that others cannot enter, with room in its name for Ray's; removed at the end.

    Raises StudyError if there is no place for one.
    """
    chosen = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    refused = {}
    for place in dict.fromkeys((*chosen, *PLACES)):
        refused[place] = why_not(place)
        if not refused[place]:
            break
    else:
        reasons = "; ".join(f"{place}: {reason}" for place, reason in refused.items())
        raise StudyError(f"TMPDIR: Ray needs a folder for its sockets and logs, got {reasons}")
    with tempfile.TemporaryDirectory(prefix="ray-", dir=place, ignore_cleanup_errors=True) as new:
        yield new


def why_not(place: str) -> str:
    """Why Ray's folder cannot be there; "" if it can."""
    if not os.path.isabs(place) or not os.path.isdir(place):
        return "no folder"
    if len(os.fsencode(place)) > LONGEST_BYTES:
        return f"longer than {LONGEST_BYTES} bytes"
    if not os.access(place, os.W_OK | os.X_OK):
        return "cannot be written"
    return "full" if shutil.disk_usage(place).free < LEAST_FREE_BYTES else ""
