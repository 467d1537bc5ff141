from __future__ import annotations

from typing import Any

import pytest

from guard.data.datasets import load_data
from studies.driver.estimate import estimate, seconds_per_pass
from studies.presets import PRESETS

AUTOATTACK = 200 + 1800 + 2700 + 5000


def test_work_is_counted_in_image_passes() -> None:
    config = PRESETS["digits"]().config.override({"ipc": 10})
    splits = load_data(config.data)
    work = estimate(config, splits).passes
    images = len(splits.train)
    assert work["squeeze"] == images * 20 * (3 + 12 * 0.25)
    assert work["recover"] == 100 * 300 * 2
    assert work["relabel"] == 100 * 200
    assert work["student"] == 3 * work["relabel"]
    assert work["evaluate"] == (2 * len(splits.validation) + len(splits.test)) * 41
    plain = estimate(config.unregularized(), splits).passes
    assert plain["squeeze"] == images * 20 * 3
    assert estimate(config.override({"ipc": 11}), splits).passes["recover"] == 150 * 300 * 2
    assert seconds_per_pass(config, splits) > 0


@pytest.mark.parametrize(
    ("method", "stage", "passes"),
    [
        ("cda", "recover", 100 * 300 * 2),
        ("dc", "gradient-matching", 20 * 10 * (10 * (32 * 3 + 10 * 9) + 9 * 5 * 10 * 3)),
        ("mtt", "trajectory-matching", 50 * 10 * 100 * 12),
        ("mat", "expert", 5 * 1151 * 20 * (3 + 2)),
    ],
)
def test_each_method_has_its_own_work(method: str, stage: str, passes: float) -> None:
    config = PRESETS["digits"]().config.unregularized().override({"method": method, "ipc": 10})
    splits = load_data(config.data)
    assert len(splits.train) == 1151
    work = estimate(config, splits).passes
    assert work[stage] == passes
    assert ("relabel" in work) == (method == "cda") and work["student"] > 0


def test_real_images_take_no_distillation() -> None:
    config = PRESETS["digits"]().config.unregularized()
    splits = load_data(config.data)
    assert set(estimate(config.override({"method": "random"}), splits).passes) == {
        "student",
        "evaluate",
    }
    whole = estimate(config.override({"method": "whole"}), splits).passes
    assert set(whole) == {"squeeze", "evaluate"}


@pytest.mark.parametrize(
    ("change", "of_validation", "of_test"),
    [
        ({"attacks": ["pgd7"]}, 41 + 15, 15),
        ({"attacks": ["autoattack"]}, 41 + 1 + AUTOATTACK, 1 + AUTOATTACK),
        ({"attacks": ["pgd7", "cw"], "more_eps": [0.2, 0.3]}, 41 + 143, 143),
        ({"attacks": ["paper"]}, 41 + 341 + AUTOATTACK, 341 + AUTOATTACK),
        ({"splits": ["test"]}, 41, 41),
        ({"splits": ["validation"], "attacks": ["mim"]}, 41 + 41, 0),
    ],
    ids=["steps", "suite", "radii", "paper", "test", "validation"],
)
def test_an_evaluation_is_of_every_attack_at_every_radius_and_the_teachers_is_cheap(
    change: dict[str, Any], of_validation: int, of_test: int
) -> None:
    config = PRESETS["digits"]().config
    splits = load_data(config.data)
    tried = config.override({f"evaluation.{name}": value for name, value in change.items()})
    validation, test = len(splits.validation), len(splits.test)
    expected = validation * of_validation + test * of_test
    assert estimate(tried, splits).passes["evaluate"] == expected
    few = tried.override({"evaluation.max_samples": 10})
    assert estimate(few, splits).passes["evaluate"] == 10 * (of_validation + of_test)


def test_without_a_teacher_only_the_student_is_evaluated() -> None:
    config = PRESETS["digits"]().config.unregularized().override({"method": "dc"})
    splits = load_data(config.data)
    images = len(splits.validation) + len(splits.test)
    assert estimate(config, splits).passes["evaluate"] == 41 * images
