"""Along which arms a law is fitted; tests/studies/design/test_arms.py has the trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import configured, record
from guard.errors import StudyError
from pages import begin, told
from studies import scaling
from studies.reporting.powerlaw import fit
from studies.scaling import curves, says
from tune.results.comparison import Arm, Comparison, named
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.rows import to_csv

PENALTY = "curvature (λ = 0.3, h = 0.1)"
SMALL = {"regularizer.weight": 0.3, "regularizer.h": 0.1}


def results(settings: Iterable[Mapping[str, Any]]) -> Results:
    arms = named([Arm(config=configured({**SMALL, **fields})) for fields in settings])
    folder = StudyFolder(Path("runs"), "s")
    comparisons = [Comparison(arm=arm, found={}, gains={}) for arm in arms]
    return Results(folder=folder, records=(), comparisons=comparisons)


def sizes(settings: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    return {
        key: [(c.arm.config.ipc, c.arm.config.model.width) for c in arms]
        for key, arms in curves(results(settings)).items()
    }


def test_the_axes_cross_at_the_usual_width() -> None:
    found = sizes({"ipc": ipc, "model.width": w} for ipc, w in [(10, 32), (1, 32), (10, 64)])
    assert found == {
        ("ipc", PENALTY): [(1, 32), (10, 32)],
        ("width", PENALTY): [(10, 32), (10, 64)],
    }


def test_each_further_setting_has_a_curve_of_its_own() -> None:
    found = sizes({"ipc": i, "sre2l.bn_weight": w} for w in (0.1, 1.0) for i in (1, 10))
    along = {name: arms for (axis, name), arms in found.items() if axis == "ipc"}
    assert list(along) == [f"{PENALTY}, sre2l.bn_weight = {w}" for w in ("0.1", "1")]
    assert all(len(arms) == 2 for arms in along.values())


def test_several_methods_are_told_apart() -> None:
    found = sizes({"ipc": i, "method": m} for m in ("sre2l", "cda") for i in (1, 10))
    assert {name for _, name in found} == {f"{m}, {PENALTY}" for m in ("sre2l", "cda")}


def test_penalties_are_told_apart() -> None:
    found = sizes(
        {"ipc": i, "regularizer.kind": k} for k in ("none", "gradient-norm") for i in (1, 2)
    )
    assert {name for _, name in found} == {"none", "gradient-norm (λ = 0.3)"}


def test_what_a_target_needs_is_said_within_reach_alone() -> None:
    law = fit([(n, 0.4 / n) for n in (1.0, 1.5, 1.9)], 100)
    assert says(law, 0.9, "images per class") == "90% at about 4 images per class"
    assert says(law, 0.98, "channels") == "98% too far off to say at how many channels"
    assert says(law, 0.5, "images per class") == "50% at 1 or fewer images per class"


@pytest.mark.parametrize(
    "recipe",
    [
        {"student.regularizer": "rslad"},
        {"student": "hald"},
        {"method": "mtt", "regularizer": "none", "student.learned_lr": True},
        {"student.labels": "fixed", "labels.teachers": ["none"]},
    ],
)
def test_throughput_is_that_of_plain_students_whatever_is_studied(recipe: dict[str, Any]) -> None:
    plain = configured(recipe).override(scaling.PLAIN)
    assert not plain.is_taught and not plain.student.regularizer.active


def test_nothing_to_compare_is_no_figure_and_no_law() -> None:
    nothing = results([])
    assert scaling.figures(nothing) == {} and curves(nothing) == {}
    assert scaling.answer(nothing) == "Too few trials for a law."


def test_a_trial_that_failed_has_no_throughput() -> None:
    scaling.check_finished(record(0))
    with pytest.raises(StudyError, match=r"a trial has failed \(no images\)"):
        scaling.check_finished(record(0, status="failed", reason="no images"))


def test_throughput_measured_afterwards_is_in_the_page(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    begin(scaling.STUDY, folder)
    rows = [{"workers": n, "trials": 3 * n, "trials_a_minute": 2.5 * n} for n in (1, 2)]
    (folder.path / "measured.csv").write_text(to_csv(rows))
    page = told(folder)
    assert page.tags["svg"] == 2 and "throughput.png" in page.text
