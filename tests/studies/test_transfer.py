"""Penalties that share a control are held against one another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from builders import judged
from pages import DIGITS, runs_of, told, write_about
from studies import transfer
from studies.design.about import About
from tune.results.folder import StudyFolder


def finished(root: Path, axes: dict[str, tuple[Any, ...]]) -> StudyFolder:
    """A study of these axes, in which smaller fractions are less robust."""
    folder, design = StudyFolder(root, "s"), transfer.design(DIGITS)
    study = replace(transfer.STUDY, design=lambda preset: replace(design, axes=axes))
    write_about(folder, About(study="transfer", command="again"))
    for run in runs_of(study, 2):
        share = run.config.regularizer.fraction
        robust = 0.3 if run.control else 0.5 + 0.1 * share
        folder.write(judged(root, run, 0.9, robust))
    return folder


def test_penalties_of_one_control_are_compared(tmp_path: Path) -> None:
    shares, methods = (1.0, 0.5), ("sre2l", "cda")
    folder = finished(tmp_path, {"method": methods, "regularizer.fraction": shares})
    header, *rows = told(folder).rows("between")
    assert header == ["configuration", "against", "Δ clean", "Δ robust"]
    assert len(rows) == 2  # one a method
    for configuration, less, clean, robust in rows:
        assert "0.5" in configuration and "fraction = 1" in less
        assert clean == "+0.0 [-1.8, +1.8]" and robust.startswith("-5.0 [-")


def test_one_penalty_has_no_other_to_be_held_against(tmp_path: Path) -> None:
    assert "Between penalties" not in told(finished(tmp_path, {"method": ("sre2l",)})).text
