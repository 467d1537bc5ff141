"""What is measured around samples; tests/studies/design/test_arms.py has the trials."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from guard.artifacts import ArtifactStore
from guard.stage import Stage
from pages import finish, told
from studies import curvature
from tune.results.folder import StudyFolder
from tune.results.rows import to_csv


def spectrum(value: float, stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    save_file({"eigenvalues": np.full((4, 3), value)}, folder / "landscape.safetensors")
    return {}


def test_curvature_measured_afterwards_is_in_the_page(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    store, rows = ArtifactStore(folder.artifacts), []
    arms = [comparison.arm for comparison in finish(curvature.STUDY, folder).comparisons]
    for facts, stage in itertools.chain.from_iterable(map(curvature.stages, arms)):
        value = {"teacher": 5.0, "student": 1.0}[str(facts["model"])] + int(facts["seed"])
        value -= 2.0 if facts == {**facts, "model": "teacher", "penalty": "none"} else 0.0
        store.get_or_build(stage, partial(spectrum, value))
        rows.append({**facts, "largest_eigenvalue": value, "bound/holds": 0.5})
    (folder.path / "measured.csv").write_text(to_csv(rows))
    page = told(folder)
    answer, arm = page.texts["answer"], "curvature (λ = 0.3, h = 0.1)"
    assert "(sre2l, IPC 5): teacher, none: 3.50 ± 0.71;" in answer
    assert f"teacher, {arm}: 5.50 ± 0.71, steeper: +2.00 [+2.00, +2.00];" in answer
    assert f"student, {arm}: 1.50 ± 0.71, no clear difference: +0.00 [+0.00, +0.00]." in answer
    header, *lines = page.rows("landscape")
    assert header == ["model", "λ₁ (mean)", "holds in"]
    assert len(lines) == 8
    assert ["sre2l, teacher, none, seed 1", "4", "0.5"] in lines
