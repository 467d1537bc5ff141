"""Names of files and classes as text that every file, terminal and message can hold."""

from __future__ import annotations

import unicodedata
from pathlib import Path

UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of what breaks a line or is no character."""


def shown(name: str | Path) -> str:
    """The name on one line, its bytes that are no UTF-8 and its control characters escaped:
    "caf\\xe9"."""
    whole = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in UNPRINTABLE else c
        for c in whole
    )
