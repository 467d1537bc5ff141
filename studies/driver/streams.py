"""Standard streams as other machines have them: closed, gone, full, or of another encoding."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from studies.reporting.console import SPELL


class Lasting(io.FileIO):
    """A terminal, pipe or file that may go away or be full; what is written then is dropped, since
    a study does not end because nobody reads along."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def make_lasting() -> None:
    """Make standard streams of which none is missing, that take every character (`SPELL`), and in
    which writing never fails."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdout = lasting(1, sys.stdout)
    sys.stderr = lasting(2, sys.stderr)


@contextlib.contextmanager
def native_apart(log: Path | None) -> Iterator[None]:
    """Have what native code writes to stderr (Ray's, when machines go) in a file instead, while
    Python's own is where it was. The file is added to, and none is left for nothing. None: leave
    it where it is."""
    if log is None:
        yield
        return
    sys.stderr.flush()
    usual, shown = sys.stderr, os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = lasting(shown, usual)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = usual
        os.dup2(shown, 2)
        os.close(shown)
        with contextlib.suppress(OSError):
            if log.stat().st_size == 0:
                log.unlink()


MOURNER = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
os.close(1)
sys.stdin.read() or print(sys.argv[1], file=sys.stderr)
"""


@contextlib.contextmanager
def epitaph(text: str) -> Iterator[None]:
    """Have something said on stderr if this process ends in here and Python does not know of it: it
    is killed, or Ray's native code ends it because its head is gone."""
    mourner = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", MOURNER, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert mourner.stdout
    mourner.stdout.read()  # until it is deaf to what ends a whole session
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mourner.communicate(b"well")


def lasting(descriptor: int, stream: TextIO | None) -> TextIO:
    """In the stream's place, which is None where Python found it closed."""
    file = io.BufferedWriter(Lasting(descriptor, "w", closefd=False))
    return io.TextIOWrapper(
        file,
        encoding=stream.encoding if stream else "utf-8",
        errors=SPELL,
        line_buffering=descriptor == 2 or file.isatty(),
    )
