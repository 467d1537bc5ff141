"""Text and tables for terminals of any encoding and width."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

import studies
from helpers import imported
from studies.reporting.console import SPELL, Terminal

FIGURES = ("98.8 ± 0.4", "+38.6 [+29.8, +46.6]")


def table() -> Table:
    found = Table(title="mean ± deviation", caption="Where nothing is said: [b]λ[/b] = 1.")
    found.add_column("configuration")
    found.add_column("clean", no_wrap=True)
    found.add_column("Δ robust")
    found.add_row("sre2l, curvature (λ = 0.1, h = 0.1)", *FIGURES)
    found.add_row("sre2l, none", "97.0 ± 0.1", "")
    return found


def printed(width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors=SPELL)
    Terminal(file, width).print_table(table())
    file.flush()
    return raw.getvalue().decode(encoding)


def test_text_is_left_as_it_is() -> None:
    file = io.StringIO()
    line = "[bold]x :cat: /tmp/[red]a " + 40 * "long " + "[/]"
    Terminal(file, width=40).print(line)
    assert file.getvalue() == f"{line}\n"


def test_a_table_leaves_text_as_it_is() -> None:
    assert "[b]λ[/b] = 1." in printed(100)


@pytest.mark.parametrize("width", [100, 60, 40, 20])
def test_figures_are_whole_at_any_width(width: int) -> None:
    lines = printed(width).splitlines()
    text = " ".join(" ".join(lines).split())
    assert "98.8 ± 0.4" in text and "97.0 ± 0.1" in text
    assert all(part in text for part in FIGURES[1].split())
    assert "…" not in text
    assert max(map(len, lines)) <= width
    assert ("┃" in text) == (width >= 60)


def test_a_row_without_a_column_names_its_cells() -> None:
    lines = printed(40).splitlines()
    assert "clean: 98.8 ± 0.4" in lines
    assert "Δ robust: +38.6 [+29.8, +46.6]" in lines
    assert sum(line.startswith("Δ robust") for line in lines) == 1


@pytest.mark.parametrize(
    ("encoding", "clean", "delta"),
    [("ascii", "98.8 +- 0.4", "Delta robust"), ("iso-8859-1", "98.8 ± 0.4", "Delta robust")],
)
def test_columns_stand_below_each_other_in_any_encoding(
    encoding: str, clean: str, delta: str
) -> None:
    text = printed(100, encoding)
    assert clean in text and delta in text and "lambda = 0.1" in text
    rows = [line for line in text.splitlines() if line.startswith(("|", "+"))]
    assert len({len(row) for row in rows}) == 1


def test_every_print_goes_through_it() -> None:
    root = Path(studies.__file__).parent
    own = root / "reporting" / "console.py"
    found = [path for path in root.rglob("*.py") if "rich.console" in imported(path)]
    assert found == [own]
