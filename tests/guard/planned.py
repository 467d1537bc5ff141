"""What the tiny trial of `conftest.py` plans."""

from __future__ import annotations

ORDER = [
    "squeeze",
    "evaluate",
    "recover",
    "distilled",
    "relabel",
    "student",
    "evaluate",
    "evaluate",
    "diagnose",
]
EVERY = set(ORDER)
