"""What the study of images, labels and teachers makes of its arms; test_page.py has its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import configured, judged
from pages import runs_of, write_about
from studies import labels
from studies.design.about import About
from studies.labels import STUDY, Sources, arms, teachers
from tune.results.comparison import Arm, Comparison
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.runs import Run

CURVATURE = "curvature (λ = 0.3, h = 0.1)"
COMMITTEES = [f"{own} + pgd-at" for own in ("none", CURVATURE)]
ROBUST = {"none": 0.2, CURVATURE: 0.4, "pgd-at": 0.6, "trades (λ = 6)": 0.5}
"""With labels of every epoch, of random images; a committee's is 0.55."""


def level(run: Run) -> float:
    """Labels of less detail take 0.1 of what the teacher brings, and other images add 0.02."""
    own = Sources.of(run.config, "")
    images = 0.02 * (own.images != "random")
    labels = 0.1 * (own.labels != "soft") * (own.teacher != "none")
    return ROBUST.get(own.teacher, 0.55) - labels + images


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = StudyFolder(tmp_path_factory.mktemp("labels"), "labels")
    write_about(folder, About(study=STUDY.name, command="again"))
    for run in runs_of(STUDY, 2):
        folder.write(judged(folder.output / "verdicts", run, 0.9, level(run)))
    return Results.read(folder)


def test_every_combination_that_has_a_meaning_is_an_arm(results: Results) -> None:
    found = arms(results)
    singles = ["none", *list(ROBUST)[1:]]
    assert teachers(found) == [*singles, *COMMITTEES]
    for images in labels.IMAGES:
        for kind in labels.LABELS:
            own = {k.teacher for k in found if (k.images, k.labels) == (images, kind)}
            has_teacher = (images, kind) != ("random", "hard")
            expected = set(singles) if has_teacher else {"none"}
            assert own == (expected | set(COMMITTEES) if kind == "soft" else expected)


@pytest.mark.parametrize(
    "recipe",
    [
        {"student.labels": "soft", "student.regularizer": "rslad"},
        {"student": "hald"},
        {"method": "mtt", "regularizer": "none", "student.learned_lr": True},
    ],
)
def test_arms_are_of_any_recipe(recipe: dict[str, Any]) -> None:
    """Some of which would not be a configuration without what sources say."""
    (config,) = (configured(recipe),)
    own = Comparison(arm=Arm(config=config), found={}, gains={})
    found = arms(Results(folder=StudyFolder(Path("runs"), "s"), records=(), comparisons=[own]))
    assert [source.images for source in found] == [config.method]


def test_the_grid_shows_every_arm_once(results: Results) -> None:
    table = labels.tables(results)[0]
    assert list(table.columns[:3]) == ["images", "labels", "none"]
    cells = [cell for row in table.rows for cell in row[2:] if cell]
    assert len(table.rows) == 12 and len(cells) == len(results.comparisons)
    row = next(row for row in table.rows if list(row[:2]) == ["rded", "soft"])
    assert row[2] == "90.0 ± 0.0, 22.0 ± 0.0"


def test_each_source_is_what_is_changed_alone(results: Results) -> None:
    contributions = labels.tables(results)[1]
    rows = {tuple(row[:3]): row[4].split(" ")[0] for row in contributions.rows}
    assert rows["labels: soft for hard", "rded", "pgd-at"] == "+10.0"
    assert rows["labels: soft for hard", "random", "pgd-at"] == "+40.0", "hard ones had no teacher"
    of_committee = rows["labels: soft for hard", "rded", COMMITTEES[1]]
    assert of_committee == "+25.0", "of the same images, which curvature's teacher has made"
    assert rows["images: sre2l for random", "sre2l", CURVATURE] == "+2.0"
    assert rows["teacher: pgd-at for none", "random", "pgd-at"] == "+40.0"
    assert rows[f"teacher: {COMMITTEES[0]} for none", "rded", COMMITTEES[0]] == "+35.0"
    assert ("images: random for random", "random", "none") not in rows


def test_the_answer_gives_the_range_of_each_source(results: Results) -> None:
    said = labels.answer(results)
    assert "the teacher: from +20.0 [" in said and "to +40.0 [" in said
    assert "the images: from +2.0 [" in said


def test_images_are_told_apart_by_what_else_is_varied(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "labels")
    for number, ipc in enumerate((1, 10)):
        for run in runs_of(STUDY, 1)[:2]:
            config = run.config.override({"ipc": ipc, "student.train.epochs": 50 * ipc})
            made = Run(trial=10 * number + run.trial, config=config, params={}, control=True)
            folder.write(judged(folder.output / "verdicts", made, 0.9, 0.5))
    found = arms(Results.read(folder))
    assert len(found) == 4
    places = {own.place for own in found}
    assert {place.split(", student")[0] for place in places} == {"random, IPC 1", "random, IPC 10"}


def test_the_figure_has_a_panel_for_each_kind_of_images(results: Results) -> None:
    figure = labels.figures(results)["sources"]
    assert [axes.get_title() for axes in figure.axes] == list(labels.IMAGES)
