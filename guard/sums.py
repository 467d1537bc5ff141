"""What a folder holds, file by file: sizes and SHA-256, by which a changed bit is seen."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 2**20
FileSums = Mapping[str, Mapping[str, Any]]
"""Path within the folder -> its `bytes` and its `sha256`, in hexadecimal."""


def file_sums(folder: Path) -> dict[str, dict[str, Any]]:
    """Of every file below the folder. Raises OSError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in files
    }


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal. Raises OSError."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def size_fault(folder: Path, sums: FileSums) -> str:
    """What tells the folder from its sums without reading it, naming the file; "" for nothing."""
    for name, known in sums.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if size != known["bytes"]:
            return f"{name} has {size} bytes of {known['bytes']}"
    return ""


def content_fault(folder: Path, sums: FileSums) -> str:
    """What tells the folder's content from its sums, naming the file; "" for nothing. A file is
    read once in a process, as long as it stays as it is."""
    fault = size_fault(folder, sums)
    if fault:
        return fault
    for name, known in sums.items():
        path = folder / name
        try:
            status = path.stat()
            found = _remembered(path, status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != known["sha256"]:
            return f"{name} has other bytes than were written"
    return ""


@functools.lru_cache(maxsize=10_000)
def _remembered(path: Path, inode: int, size: int, changed_ns: int) -> str:
    return sha256(path)
