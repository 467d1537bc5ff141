"""Fonts for names in any script."""

from __future__ import annotations

import functools

from matplotlib import font_manager

USUAL = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more."""
PLACEHOLDERS = "Last Resort"
"""Begins the name of the font that has a box for every character."""


def families(text: str) -> list[str]:
    """Fonts that together have every character of the text, the usual one first; none where no
    installed font has one of them."""
    found, missing = [USUAL], set(text) - characters(font_manager.findfont(USUAL))
    for font in font_manager.fontManager.ttflist if missing else ():
        if not font.name.startswith(PLACEHOLDERS) and missing & characters(font.fname):
            found.append(font.name)
            missing -= characters(font.fname)
    return [] if missing else found


@functools.cache
def characters(file: str) -> frozenset[str]:
    """What matplotlib can draw of a font; nothing of one that it cannot read, or that has pictures
    of one size."""
    try:
        font = font_manager.get_font(file)
        font.set_size(10, 72)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))
