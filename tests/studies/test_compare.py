from __future__ import annotations

from pathlib import Path

import pytest

from builders import judged, planned
from pages import DIGITS
from studies import compare
from tune.results.comparison import compare as compared
from tune.results.findings import Results
from tune.results.folder import StudyFolder


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
