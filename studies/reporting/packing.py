"""Scripts in a page at two fifths of their size: compressed, as text, unpacked by the browser."""

from __future__ import annotations

import base64
import functools
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from plotly.offline import get_plotlyjs

from studies.reporting.interactive import Plot

SCRIPT = re.compile(r"<script\b[^>]*>(.*?)</script>", re.S)
FORBIDDEN = ("</script", "<!--")
"""What ends, or hides the end of, a script of HTML."""


def packed(plots: Sequence[Plot]) -> tuple[list[Plot], list[str]]:
    """The plots without their scripts, and what is to be run in order: plotly's code, then their
    scripts, each packed (`pack`). Nothing for no plots."""
    if not plots:
        return [], []
    bare = [replace(plot, html=SCRIPT.sub("", plot.html)) for plot in plots]
    scripts = [code for plot in plots for code in SCRIPT.findall(plot.html)]
    return bare, [plotly(), pack(joined(scripts))]


@functools.cache
def plotly() -> str:
    return pack(get_plotlyjs())


def joined(scripts: Iterable[str]) -> str:
    return "\n;\n".join(scripts)


def pack(code: str) -> str:
    """The code compressed by zlib, in base 85 (RFC 1924), that is a quarter longer than its bytes,
    where base 64 is a third. It may stand in a script element."""
    text = base64.b85encode(zlib.compress(code.encode(), 9)).decode()
    for part in FORBIDDEN:
        text = text.replace(part, f"{part[0]} {part[1:]}")  # spaces are skipped
    return text


def unpack(text: str) -> str:
    """Inverse of `pack`."""
    return zlib.decompress(base64.b85decode(text.replace(" ", ""))).decode()
