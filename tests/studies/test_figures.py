from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from studies.figures import entitle


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("", [""]),
        ("short", ["short"]),
        (
            "two words and a third " * 3,
            ["two words and a third two words", "and a third two words and a third"],
        ),
        ("x" * 60, ["x" * 30, "x" * 30]),
    ],
)
def test_a_title_is_broken_into_even_lines(title: str, lines: list[str]) -> None:
    figure = Figure(figsize=(4, 3))
    entitle(figure, title)
    assert figure.get_suptitle().split("\n") == lines
