"""Class names in any script over a gallery's columns."""

from __future__ import annotations

import io

import pytest
from matplotlib.figure import Figure

from studies.gallery import head
from studies.reporting.fonts import USUAL, families

ABSENT = "\U000f0000"
"""Of a plane for private use."""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["кошка", "γάτα", "قطة", "$a_b$", "猫", f"a{ABSENT}"])
def test_a_class_has_its_name_or_its_number_and_no_boxes(name: str) -> None:
    figure = Figure()
    axes = figure.subplots()
    head(axes, name, 3)
    figure.savefig(io.BytesIO())  # warns of characters that no font has
    assert axes.get_title() == (name if families(name) else "class 3")


def test_the_usual_font_has_most_scripts_and_none_has_everything() -> None:
    assert families("кошка γάτα قطة $ ñ") == [USUAL]
    assert families(f"a{ABSENT}") == []
