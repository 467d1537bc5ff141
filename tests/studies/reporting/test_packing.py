"""Scripts that travel in a page as text."""

from __future__ import annotations

import base64
import random

import pytest

from studies.reporting import packing
from studies.reporting.interactive import Plot
from studies.reporting.packing import FORBIDDEN, SCRIPT, pack, packed, unpack


@pytest.mark.parametrize("length", range(9))
def test_what_is_packed_comes_back(length: int) -> None:
    code = "λ x h </script>"[:length] + "".join(random.Random(length).choices("ab;{}", k=3000))
    assert unpack(pack(code)) == code
    assert len(pack(code)) < len(code) / 2


def test_nothing_in_it_ends_or_hides_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base 85 has all the letters that this takes but the slash."""
    monkeypatch.setattr(base64, "b85encode", lambda content: b"<!--<script<!--12345")
    text = pack("x")
    assert not any(part in text for part in FORBIDDEN)
    assert text.replace(" ", "") == "<!--<script<!--12345"


def test_a_plot_keeps_its_place_and_loses_its_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "plotly", lambda: pack("library"))
    html = '<div><script type="text/javascript">a()</script><div id="p"></div><script>b()</script>'
    plots = [Plot(title=name, caption="", html=f"{html}</div>") for name in "xy"]
    bare, (library, drawn) = packed(plots)
    assert [plot.html for plot in bare] == ['<div><div id="p"></div></div>'] * 2
    assert unpack(library) == "library"
    assert unpack(drawn).split("\n;\n") == ["a()", "b()"] * 2
    assert SCRIPT.findall(html) == ["a()", "b()"]
    assert packed([]) == ([], [])
