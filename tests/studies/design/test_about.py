from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders import record
from guard.errors import StudyError
from guard.trial import TrialConfig
from studies.design.about import About, claim, claimed
from tune.results.folder import StudyFolder

ABOUT = About(study="compare", command="uv run python -m studies.compare --name x")
BASE = TrialConfig().override({"data.path": "/first", "data.sha256": "a" * 64})
VARIED = {"axis ipc": "[1, 10]", "arms": "{}"}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Of a study that is claimed already."""
    made = StudyFolder(tmp_path, "x")
    claim(made, ABOUT, BASE, VARIED)
    return made


def test_a_claim_says_which_study_it_is_and_how_it_was_made(folder: StudyFolder) -> None:
    assert About.read(folder) == ABOUT
    settings = json.loads((folder.path / "study.json").read_text())
    assert settings["study"] == "compare"
    assert (settings["ipc"], settings["axis ipc"], settings["arms"]) == (10, "[1, 10]", "{}")
    assert "data.path" not in settings and settings["data.sha256"] == "a" * 64


def test_the_same_study_is_accepted_again_with_its_latest_command(folder: StudyFolder) -> None:
    before = (folder.path / "study.json").read_text()
    again = About(study="compare", command="uv run python -m studies.compare --name x --device cpu")
    claim(folder, again, BASE, VARIED)
    assert (folder.path / "study.json").read_text() == before
    assert About.read(folder) == again


def test_the_same_data_may_lie_elsewhere(folder: StudyFolder) -> None:
    claim(folder, ABOUT, BASE.override({"data.path": "/second"}), VARIED)


@pytest.mark.parametrize(
    ("study", "changes", "varied", "difference"),
    [
        ("ablation", {}, VARIED, "study = compare, not ablation"),
        ("compare", {"squeeze.lr": 0.2}, VARIED, "squeeze.lr = 0.1, not 0.2"),
        ("compare", {"student.mix": "mixup"}, VARIED, "student.mix = none, not mixup"),
        ("compare", {"evaluation.attacks": ["mim"]}, VARIED, "evaluation.attacks = ['pgd20'], not"),
        ("compare", {"data.sha256": "b" * 64}, VARIED, f"data.sha256 = {'a' * 64}, not"),
        ("compare", {}, {**VARIED, "arms": "{} {}"}, "arms = {}, not {} {}"),
        ("compare", {}, {"arms": "{}"}, "axis ipc = [1, 10], not None"),
        ("compare", {}, {**VARIED, "axis seed": "[1]"}, "axis seed = None, not [1]"),
    ],
)
def test_another_study_is_refused_in_one_line_that_names_the_difference(
    study: str,
    changes: dict[str, Any],
    varied: dict[str, str],
    difference: str,
    folder: StudyFolder,
) -> None:
    before = {path: path.read_text() for path in folder.path.iterdir()}
    with pytest.raises(StudyError) as caught:
        claim(folder, About(study=study, command="other"), BASE.override(changes), varied)
    text = str(caught.value)
    assert f"was made with {difference}" in text and str(folder.path) in text
    assert text.endswith("choose another --name") and "\n" not in text
    assert {path: path.read_text() for path in folder.path.iterdir()} == before


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_without_a_study_is_refused_in_one_line(is_there: bool, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "empty")
    if is_there:
        folder.path.mkdir()
    with pytest.raises(StudyError) as caught:
        About.read(folder)
    assert str(caught.value) == f"{folder.path}: holds no study (there is no about.json)"


def test_a_study_that_is_refused_leaves_the_name_free(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "x")
    with pytest.raises(StudyError, match="no such machine"), claimed(folder, ABOUT, BASE, VARIED):
        (folder.path / "optuna.db").touch()
        raise StudyError("no such machine")
    assert list(folder.path.iterdir()) == []
    claim(folder, ABOUT, BASE.override({"compute.device": "cuda"}), VARIED)


def test_a_study_that_is_refused_later_keeps_its_claim(folder: StudyFolder) -> None:
    with pytest.raises(StudyError), claimed(folder, ABOUT, BASE, VARIED):
        raise StudyError("no such machine")
    assert About.read(folder) == ABOUT
    new = StudyFolder(folder.output, "y")
    with pytest.raises(StudyError), claimed(new, ABOUT, BASE, VARIED):
        new.write(record(0))
        raise StudyError("the disk is full")
    assert About.read(new) == ABOUT
