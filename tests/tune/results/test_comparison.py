from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from guard.robustness.evaluate import Verdicts
from guard.trial import TrialConfig
from tune.results.comparison import Arm, arms, compare, compared, elsewhere, named
from tune.results.folder import StudyFolder
from tune.results.records import CONFIRMATION, Record
from tune.results.tables import markdown

SAMPLES = 200


def record(
    folder: Path,
    seed: int,
    clean: float,
    robust: float,
    *,
    penalty: bool = True,
    student: int = 0,
    phase: str = "search",
    **changes: object,
) -> Record:
    """A trial with that share of its first samples right."""
    config = TrialConfig().override({"seed": seed, "student.seed": student, **changes})
    config = config if penalty else config.unregularized()
    numbers = torch.arange(SAMPLES)
    right = numbers < round(clean * SAMPLES)
    part = (config.evaluation.eps, "pgd20")
    place = folder / f"{seed}-{student}-{penalty}-{clean}"
    place.mkdir(exist_ok=True)
    Verdicts(right, {part: numbers < round(robust * SAMPLES)}).save(place / "verdicts.safetensors")
    plain = (config.to_dict(), config.fingerprint())
    paths = {"validation verdicts": str(place), "test verdicts": str(place)}
    return Record(seed, "complete", "", not penalty, {}, *plain, paths=paths, phase=phase)


def test_trials_that_differ_in_seeds_alone_are_one_arm(tmp_path: Path) -> None:
    records = [record(tmp_path, seed, 0.9, 0.5) for seed in (0, 1)]
    records += [record(tmp_path, 0, 0.9, 0.5, student=1), record(tmp_path, 0, 0.9, 0.5, ipc=1)]
    records += [replace(record(tmp_path, 2, 0.9, 0.5), status="diverged")]
    first, second = arms(records)
    assert sorted(first.records) == [(0, 0), (0, 1), (1, 0)]
    assert (first.config.seed, second.config.ipc) == (0, 1)


def test_a_gain_is_paired_with_the_control_on_the_seeds_of_both(tmp_path: Path) -> None:
    records = [record(tmp_path, s, 0.9, 0.5 + s / 100) for s in (0, 1, 2, 3)]
    records += [record(tmp_path, s, 0.95, 0.3 + s / 100, penalty=False) for s in (1, 2, 3)]
    ours, control = compare(records)
    assert control.robust_gain is None
    assert ours.robust.num_distillations == 4
    assert ours.robust.mean == pytest.approx(0.515)
    assert ours.robust_gain is not None and ours.clean_gain is not None
    assert ours.robust_gain.num_distillations == 3
    assert ours.robust_gain.mean == pytest.approx(0.2)
    assert ours.robust_gain.is_clear and ours.clean_gain.mean == pytest.approx(-0.05)


def test_a_control_must_be_the_same_but_for_the_regularizer(tmp_path: Path) -> None:
    records = [record(tmp_path, s, 0.9, 0.5) for s in (0, 1)]
    records += [record(tmp_path, s, 0.9, 0.4, penalty=False, ipc=1) for s in (0, 1)]
    assert compare(records)[0].robust_gain is None


def test_a_table_marks_clear_gains_and_only_those(tmp_path: Path) -> None:
    records = [record(tmp_path, s, 0.9, level) for s, level in enumerate((0.5, 0.52, 0.51))]
    records += [record(tmp_path, s, 0.9, 0.3, penalty=False) for s in range(3)]
    header, _, ours, control = markdown(compare(records)).strip().splitlines()
    assert header.startswith("| method | IPC |")
    assert "curvature (λ = 0.1, h = 0.1) | 3 | 90.0 ± 0.0 | 51.0 ± 1.0 | +0.0 [" in ours
    assert "**+21.0** [" in ours
    assert control.endswith("|  |  |")


def test_rows_say_how_many_seeds_students_and_samples(tmp_path: Path) -> None:
    records = [record(tmp_path, s, 0.9, 0.5, student=t) for s in (0, 1) for t in (0, 1, 2)]
    row = compare(records)[0].row()
    assert (row["seeds"], row["students"], row["samples"]) == (2, 6, SAMPLES)
    assert row["robust_low"] <= row["robust"] <= row["robust_high"]
    assert np.isfinite(row["robust_student_std"])


def test_a_confirmation_is_what_a_study_says(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "study")
    folder.write(record(tmp_path, 0, 0.9, 0.9))
    assert compared(folder) == []
    for seed in (1, 2):
        folder.write(record(tmp_path, seed, 0.9, 0.4, phase=CONFIRMATION))
    (found,) = compared(folder)
    assert found.robust.mean == pytest.approx(0.4)


def test_a_search_over_seeds_is_compared_without_a_confirmation(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "study")
    for seed in (0, 1):
        folder.write(record(tmp_path, seed, 0.9, 0.5))
    assert compared(folder)[0].robust.num_distillations == 2


def with_weights(*weights: float) -> list[Arm]:
    """Controls that differ in a weight, at as many IPCs as there are."""
    return [
        Arm(TrialConfig().override({"regularizer": "none", "ipc": n, "sre2l.bn_weight": weight}))
        for n, weight in enumerate(weights, 1)
    ]


@pytest.mark.parametrize(
    ("weights", "settings", "rest"),
    [
        ((0.1, 0.1), ["", ""], None),
        ((0.1, 0.2), ["0.1", "0.2"], None),
        ((0.1, 0.1, 0.2), ["0.1", "0.1", "0.2"], None),
        ((0.1, 0.1, 0.2, 0.1), ["", "", "0.2", ""], "0.1"),
    ],
)
def test_a_title_names_what_is_not_as_usual(
    weights: tuple[float, ...], settings: list[str], rest: str | None
) -> None:
    field = "sre2l.bn_weight = "
    arms = with_weights(*weights)
    assert [arm.settings.removeprefix(field) for arm in named(arms)] == settings
    assert elsewhere(arms) == (f"Where nothing else is said: {field}{rest}." if rest else "")


def test_what_the_kind_of_penalty_decides_is_not_named() -> None:
    kinds = [{"regularizer.weight_warmup_epochs": 5}, {"regularizer": "trades"}]
    arms = [Arm(TrialConfig().override(own)) for own in kinds]
    assert [arm.settings for arm in named(arms)] == ["", ""]


def test_only_arms_that_read_a_field_say_what_is_usual() -> None:
    guards = [{"regularizer.power": power} for power in (2, 2, 2, 1)]
    names = ["none", "released-cifar", "trades", "cure"]
    settings = [*guards, *({"regularizer": name} for name in names)]
    arms = [Arm(TrialConfig().override({**own, "ipc": n})) for n, own in enumerate(settings, 1)]
    found = [arm.settings for arm in named(arms)]
    assert found == ["", "", "", "regularizer.power = 1", "", "", "", ""]
    assert elsewhere(arms) == "Where nothing else is said: regularizer.power = 2."


def test_the_whole_set_has_no_images_per_class() -> None:
    (arm,) = named([Arm(TrialConfig().override({"method": "whole", "regularizer": "none"}))])
    assert arm.title == "whole, none"
