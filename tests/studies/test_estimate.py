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


@pytest.mark.parametrize(("attack", "passes"), [("pgd7", 14), ("cw", 100), ("autoattack", 8800)])
def test_an_attack_costs_its_passes(attack: str, passes: int) -> None:
    assert attack_passes(attack) == passes
