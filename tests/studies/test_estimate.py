from __future__ import annotations

import pytest

from guard.datasets import load_data
from studies.estimate import attack_passes, estimate, seconds_per_pass
from studies.presets import PRESETS


def test_work_is_counted_in_image_passes() -> None:
    config = PRESETS["digits"]().config
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
    assert estimate(config.override({"ipc": 11}), splits).passes["recover"] == 200 * 300 * 2
    assert seconds_per_pass(config, splits) > 0


@pytest.mark.parametrize(
    ("method", "stage", "passes"),
    [
        ("cda", "recover", 100 * 300 * 2),
        ("dc", "gradient-matching", 20 * 10 * (10 * (64 * 3 + 10 * 9) + 9 * 5 * 10 * 3)),
        ("mtt", "trajectory-matching", 50 * 10 * 100 * 12),
        ("mat", "expert", 5 * 1151 * 20 * (3 + 2 * 7)),
    ],
)
def test_each_method_has_its_own_work(method: str, stage: str, passes: float) -> None:
    config = PRESETS["digits"]().config.unregularized().override({"method": method})
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


@pytest.mark.parametrize(("attack", "passes"), [("pgd7", 14), ("cw", 100), ("autoattack", 8800)])
def test_an_attack_costs_its_passes(attack: str, passes: int) -> None:
    assert attack_passes(attack) == passes
