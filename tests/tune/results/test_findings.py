"""What a study says that it has found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders import judged, planned
from guard.trial import TrialConfig
from tune.results.comparison import compare
from tune.results.findings import Results, against_start, gains_in_words
from tune.results.folder import StudyFolder
from tune.results.records import CONFIRMATION, Record

WEIGHTS = (0.1, 0.2)
"""Of trials 0 and 1, of which the second is chosen."""


def run(folder: StudyFolder, trial: int, robust: float, seed: int = 0) -> Record:
    fields: dict[str, Any] = {"regularizer.weight": WEIGHTS[trial], "regularizer.h": 0.3}
    config = TrialConfig().override({**fields, "seed": seed, "student.seed": seed})
    phase = {"phase": CONFIRMATION} if seed else {}
    planned_run = planned(trial, config, params=fields, **phase)
    place, split = folder.output / f"{trial}-{seed}", "test" if seed else "validation"
    made = judged(place, planned_run, 0.9, robust, splits=(split,))
    folder.write(made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Trial 1 is chosen, and with new seeds 0.2 more robust than trial 0 where that has run."""
    folder = StudyFolder(tmp_path, "s")
    made = [run(folder, 0, 0.4), run(folder, 1, 0.6)]
    folder.write_tables(made, made[1])
    return folder


def begun_with(folder: StudyFolder, weight: float) -> str:
    stated = {"regularizer.weight": weight, "regularizer.h": 0.3}
    (folder.path / "study.json").write_text(json.dumps(stated))
    return against_start(Results.read(folder))


def test_the_choice_is_held_against_the_search_s_own_values(folder: StudyFolder) -> None:
    for seed in (1, 2, 3):
        run(folder, 0, 0.4, seed), run(folder, 1, 0.6, seed)
    said = begun_with(folder, 0.1)
    assert said.startswith("The search's choice against the values that it began with: sre2l, IPC")
    assert ": more robust, +20.0 [" in said and "points (clean +0.0 [" in said
    assert begun_with(folder, 0.2) == "The search's choice is the values that it began with."


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_nothing_is_said_of_what_was_not_confirmed_or_never_tried(
    weight: float, folder: StudyFolder
) -> None:
    run(folder, 1, 0.6, seed=1)
    assert begun_with(folder, weight) == ""


def test_a_study_whose_settings_cannot_be_read_has_no_start(folder: StudyFolder) -> None:
    assert Results.read(folder).start is None
    (folder.path / "study.json").write_text("[")
    assert Results.read(folder).start is None


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["none"], "No arm is regularized."),
        (["curvature"], "No arm has a control that is complete."),
        ([], "No arm has a control that is complete."),
        (["none", "curvature"], "Robust accuracy against the unregularized control, in points"),
    ],
)
def test_arms_that_nothing_is_held_against_are_told_apart(
    kinds: list[str], said: str, tmp_path: Path
) -> None:
    config = TrialConfig().override({"evaluation.splits": ["test"]})
    records = [
        judged(tmp_path, planned(n, config.override({"regularizer": kind})), 0.9, 0.3 + n / 10)
        for n, kind in enumerate(kinds)
    ]
    folder = StudyFolder(tmp_path, "s")
    results = Results(folder=folder, records=records, comparisons=compare(records))
    assert gains_in_words(results).startswith(said)
