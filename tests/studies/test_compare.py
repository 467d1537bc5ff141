from __future__ import annotations

from pathlib import Path

import pytest

from builders import judged, planned
from pages import DIGITS
from studies import compare
from tune.results.comparison import compare as compared
from tune.results.findings import Results
from tune.results.folder import StudyFolder

SETS = [{"path": name, "place": f"/{name}", "sha256": name, "ipc": 5} for name in ("a", "b")]


@pytest.mark.parametrize(("ipcs", "shown"), [((5,), False), ((1, 5), True)])
def test_an_axis_of_images_per_class_is_drawn(
    ipcs: tuple[int, ...], shown: bool, tmp_path: Path
) -> None:
    base = DIGITS.config.override({"evaluation.splits": ["test"]})
    configs = [base.override({"ipc": ipc}) for ipc in ipcs]
    runs = [planned(n, config.unregularized()) for n, config in enumerate(configs)]
    records = [judged(tmp_path, run, 0.9, 0.3) for run in runs]
    results = Results(
        folder=StudyFolder(tmp_path, "s"), records=records, comparisons=compared(records)
    )
    assert ("ipc" in compare.figures(results)) is shown


def test_sets_that_were_given_are_held_against_all_others(tmp_path: Path) -> None:
    plain = {"evaluation.splits": ["test"], "given.known": SETS, "regularizer": "none"}
    base = DIGITS.config.override(plain)
    arms = [
        ({"method": "given", "given.path": "a"}, 0.9, 0.5),
        ({"method": "given", "given.path": "b"}, 0.8, 0.2),
        ({"method": "random", "ipc": 5}, 0.85, 0.3),
        ({"method": "random", "ipc": 1}, 0.5, 0.1),
        ({"method": "whole"}, 0.99, 0.4),
    ]
    records = [
        judged(tmp_path, planned(number, base.override(own)), clean, robust)
        for number, (own, clean, robust) in enumerate(arms)
    ]
    found = compare.given(compared(records))
    assert [row[:2] for row in found[0].rows] == [
        ["given a, IPC 5, none", "random, IPC 5, none"],
        ["given a, IPC 5, none", "whole, none"],
        ["given b, IPC 5, none", "random, IPC 5, none"],
        ["given b, IPC 5, none", "whole, none"],
    ]
    assert [row[3].split()[0] for row in found[0].rows] == ["+20.0", "+10.0", "-10.0", "-20.0"]
    assert "runs differ in student and attacks alone" in found[0].caption
    assert compare.given(compared(records[2:])) == []


def test_a_gain_is_held_against_that_under_another_recipe(tmp_path: Path) -> None:
    """The same regularizer brings 20 points under the one and 5 under the other."""
    base = DIGITS.config.override({"evaluation.splits": ["test"]})
    levels = {("rd3", True): 0.5, ("rd3", False): 0.3, ("edc", True): 0.45, ("edc", False): 0.4}
    records = []
    for number, ((student, regularized), robust) in enumerate(levels.items()):
        config = base.override({"student": student})
        own = config if regularized else config.unregularized()
        records.append(judged(tmp_path, planned(number, own), 0.9, robust))
    (table,) = compare.gains_between(compared(records))
    (row,) = table.rows
    assert row[0] == "sre2l, IPC 5, curvature (λ = 0.3, h = 0.1)"
    assert "student.loss = mse" in row[1] and "student.loss = kl" in row[2]
    assert [text.split()[0] for text in row[3:]] == ["+0.0", "-15.0"]
    assert compare.gains_between(compared(records[:3])) == [], "its control is not there"
