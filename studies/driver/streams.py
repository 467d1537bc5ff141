"""Standard streams as other machines have them: closed, gone, full, or of another encoding."""

from __future__ import annotations

import io
import os
import sys
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


def lasting(descriptor: int, stream: TextIO | None) -> TextIO:
    """In the stream's place, which is None where Python found it closed."""
    file = io.BufferedWriter(Lasting(descriptor, "w", closefd=False))
    return io.TextIOWrapper(
        file,
        encoding=stream.encoding if stream else "utf-8",
        errors=SPELL,
        line_buffering=descriptor == 2 or file.isatty(),
    )
