from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import SAMPLES, configured, judged, planned
from guard.robustness.measures import Measure
from tune.results.comparison import Arm, arms, compare, compared, named
from tune.results.folder import StudyFolder
from tune.results.records import CONFIRMATION, Record
from tune.results.tables import markdown


def made(
    folder: Path,
    seed: int,
    clean: float,
    robust: float,
    *,
    penalty: bool = True,
    student: int = 0,
    phase: str = "search",
    **fields: Any,
) -> Record:
    """A trial on both splits with that share of its first samples right."""
    seeds = {"seed": seed, "student.seed": student}
    config = configured({**seeds, **fields}, control=not penalty)
    run = planned(seed, config, phase=phase)
    return judged(folder, run, clean, robust, splits=("validation", "test"))


def test_trials_that_differ_in_seeds_alone_are_one_arm(tmp_path: Path) -> None:
    records = [made(tmp_path, seed, 0.9, 0.5) for seed in (0, 1)]
    records += [made(tmp_path, 0, 0.9, 0.5, student=1), made(tmp_path, 0, 0.9, 0.5, ipc=1)]
    records += [replace(made(tmp_path, 2, 0.9, 0.5), status="diverged")]
    first, second = arms(records)
    assert sorted(first.records) == [(0, 0), (0, 1), (1, 0)]
    assert (first.config.seed, second.config.ipc) == (0, 1)


def test_the_attacks_seed_repeats_a_trial_too(tmp_path: Path) -> None:
    records = [made(tmp_path, s, 0.9, 0.5, **{"evaluation.seed": s}) for s in (1, 2, 3)]
    records += [
        made(tmp_path, s, 0.9, 0.3, penalty=False, **{"evaluation.seed": s}) for s in (1, 2, 3)
    ]
    ours, control = compare(records)
    assert ours.robust.num_distillations == control.robust.num_distillations == 3
    assert ours.robust_gain is not None and ours.robust_gain.num_distillations == 3


def test_trials_that_differ_in_the_attacks_seed_alone_are_compared(tmp_path: Path) -> None:
    records = [
        made(tmp_path, s, 0.9, 0.5, **{"evaluation.seed": a}) for s in (0, 1) for a in (5, 6)
    ]
    found = arms(records)
    assert [sorted(arm.records) for arm in found] == [[(0, 0), (1, 0)]] * 2
    assert [arm.config.evaluation.seed for arm in found] == [5, 6]
    assert found[1].settings == "evaluation.seed = 6"


def test_a_gain_is_paired_with_the_control_on_the_seeds_of_both(tmp_path: Path) -> None:
    records = [made(tmp_path, s, 0.9, 0.5 + s / 100) for s in (0, 1, 2, 3)]
    records += [made(tmp_path, s, 0.95, 0.3 + s / 100, penalty=False) for s in (1, 2, 3)]
    ours, control = compare(records)
    assert control.robust_gain is None
    assert ours.robust.num_distillations == 4
    assert ours.robust.mean == pytest.approx(0.515)
    assert ours.robust_gain is not None and ours.clean_gain is not None
    assert ours.robust_gain.num_distillations == 3
    assert ours.robust_gain.mean == pytest.approx(0.2)
    assert ours.robust_gain.is_clear and ours.clean_gain.mean == pytest.approx(-0.05)


def test_a_control_must_be_the_same_but_for_the_regularizer(tmp_path: Path) -> None:
    records = [made(tmp_path, s, 0.9, 0.5) for s in (0, 1)]
    records += [made(tmp_path, s, 0.9, 0.4, penalty=False, ipc=1) for s in (0, 1)]
    assert compare(records)[0].robust_gain is None


def test_a_table_marks_clear_gains_and_only_those(tmp_path: Path) -> None:
    records = [made(tmp_path, s, 0.9, level) for s, level in enumerate((0.5, 0.52, 0.51))]
    records += [made(tmp_path, s, 0.9, 0.3, penalty=False) for s in range(3)]
    header, _, ours, control, _, legend = markdown(compare(records)).strip().splitlines()
    assert header.startswith("| method | IPC |")
    assert "curvature (λ = 0.1, h = 0.1) | 3 | 90.0 ± 0.0 | 51.0 ± 1.0 | +0.0 [" in ours
    assert "**+21.0**† [" in ours
    assert control.endswith("|  |  |")
    assert legend == (
        "Δ: paired difference to the unregularized control, 95 % interval over seeds and test "
        "images; bold where it is clear: zero is outside. Chance alone calls up to one difference "
        "in twenty clear. Taken together (Holm, 5 % for all 2 at once), 1 of them, marked "
        "†, stay clear."
    )


def test_rows_say_how_many_seeds_students_and_samples(tmp_path: Path) -> None:
    records = [made(tmp_path, s, 0.9, 0.5, student=t) for s in (0, 1) for t in (0, 1, 2)]
    row = compare(records)[0].row()
    assert (row["seeds"], row["students"], row["samples"]) == (2, 6, SAMPLES)
    assert row["robust_low"] <= row["robust"] <= row["robust_high"]
    assert np.isfinite(row["robust_student_std"])


def test_a_confirmation_is_what_a_study_says(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.write(made(tmp_path, 0, 0.9, 0.9))
    assert compared(folder) == []
    for seed in (1, 2):
        folder.write(made(tmp_path, seed, 0.9, 0.4, phase=CONFIRMATION))
    (found,) = compared(folder)
    assert found.robust.mean == pytest.approx(0.4)


def test_a_search_over_seeds_is_compared_without_a_confirmation(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "study")
    for seed in (0, 1):
        folder.write(made(tmp_path, seed, 0.9, 0.5))
    assert compared(folder)[0].robust.num_distillations == 2


def test_a_title_ends_with_what_sets_an_arm_apart() -> None:
    first, second = named(
        [Arm(config=configured({"sre2l.bn_weight": weight}, control=True)) for weight in (0.1, 1.0)]
    )
    assert first.title == "sre2l, IPC 10, none, sre2l.bn_weight = 0.1"
    assert second.title == "sre2l, IPC 10, none, sre2l.bn_weight = 1"


def test_each_attack_alone_has_values_where_every_one_saw_all_samples(tmp_path: Path) -> None:
    attacks = {"evaluation.attacks": ["pgd5", "mim"], "evaluation.more_eps": [0.2]}
    worst = ["clean", "robust", "robust/eps_0.2"]
    for cascade, alone in ((True, []), (False, ["robust/pgd5", "robust/mim"])):
        fields = {**attacks, "evaluation.cascade": cascade}
        (found,) = compare([made(tmp_path, 0, 0.9, 0.5, **fields)])
        assert [measure.name for measure in found.found] == [*worst, *alone]
        assert [measure.name for measure in found.worst_cases] == worst
        assert [measure.name for measure in found.attacks] == (
            ["clean", *alone, "robust"] if alone else []
        )
        assert found.at(0.2) == found.found[Measure(kind="robust", eps=0.2)]
        assert found.at(configured().evaluation.eps) == found.robust
