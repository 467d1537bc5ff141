from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from guard.errors import StudyError
from studies import report
from studies.design.stories import names, stories, story
from studies.design.study import Study
from tune.results.folder import StudyFolder, write_atomically

KNOWN = {"sweep", "overhead"}
KNOWN |= {"compare", "adversarial", "ablation", "transfer", "curvature", "gallery", "scaling"}


def test_every_study_is_found_by_the_name_of_its_command() -> None:
    found = stories()
    assert found.keys() >= KNOWN
    assert all(story(name) is found[name] and found[name].name == name for name in found)
    assert {name for name in KNOWN if not isinstance(found[name], Study)} == {"sweep", "overhead"}


@pytest.mark.parametrize(
    "name",
    ["", "nope", "report", "presets", "driver", "design.study", "../sweep", "os", "__init__"],
)
def test_no_other_name_is_a_study(name: str) -> None:
    assert story(name) is None
    assert name not in stories()


def test_the_names_are_those_of_files() -> None:
    assert {*KNOWN, "report", "trial"} <= set(names())
    assert "driver" not in names()


@pytest.mark.parametrize("name", ["nope", "report", "driver.flags", "", None, ["sweep"]])
def test_a_folder_of_no_study_is_one_line(name: object, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    write_atomically(folder.path / "about.json", json.dumps({"study": name, "command": ""}))
    with pytest.raises(StudyError) as caught:
        report.main([str(folder.path)])
    assert str(caught.value) == f"{folder.path}: its about.json names no study, got {name!r}"
    assert not (folder.path / "report.html").exists()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_story_has_a_question_and_the_tables_that_its_source_names(name: str) -> None:
    told = stories()[name]
    assert told.question.endswith("?")
    numbers = re.findall(r"\d+", told.source) if "Table" in told.source else []
    assert list(told.after) == numbers
