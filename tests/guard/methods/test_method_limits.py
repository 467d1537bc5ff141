"""Base methods at settings that are far too large: refused, diverged, or pixels all the same."""

from __future__ import annotations

from typing import Any

import pytest
from laboratory import CAN_START_REAL, OPTIMISES, Lab, names, starting, with_field

from guard.distilled import DistilledSet
from guard.errors import DataError
from guard.pipeline import local_runner, run_trial


@pytest.mark.parametrize("name", CAN_START_REAL)
def test_a_class_with_too_few_images_is_named_in_one_line(name: str, lab: Lab) -> None:
    config = lab.config(name, ipc=31, **starting(name, "real"))
    with pytest.raises(DataError, match=r"^ipc: class 0 has 30 training images.* ipc = 31$"):
        run_trial(config, local_runner(lab.store))


STEEP = {"train.lr": 1e10, "train.optimizer": "sgd"}
STEEP_SQUEEZE = {"squeeze.optimizer": "sgd", "squeeze.lr": 1e10}


@pytest.mark.parametrize(
    ("name", "changes", "stage"),
    [
        *[
            (name, STEEP_SQUEEZE, "squeeze")
            for name in names(lambda method: "squeeze" in method.reads)
        ],
        *[
            (name, {f"{name}.lr_network": 1e30}, "gradient-matching")
            for name in with_field("lr_network")
        ],
        *[(name, {f"{name}.experts.train.lr": 1e10}, "expert") for name in with_field("experts")],
        *[(name, {f"{name}.rate": 1e30}, "trajectory-matching") for name in with_field("rate")],
        *[
            (name, {f"student.{path}": value for path, value in STEEP.items()}, "student")
            for name in ("random", "dc", "mtt")
        ],
    ],
)
def test_a_learning_rate_that_is_far_too_large_ends_a_trial_as_diverged(
    name: str, changes: dict[str, Any], stage: str, lab: Lab
) -> None:
    result = lab.run(lab.config(name, **changes))
    assert result.status == "diverged"
    assert result.reason.startswith(f"{stage}: ") and "\n" not in result.reason
    assert result.stages[-1].name == stage
    assert "test/clean_accuracy" not in result.metrics


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("name", OPTIMISES)
def test_images_stay_pixels_at_any_learning_rate(name: str, whitened: bool, lab: Lab) -> None:
    """Also after the last step; or the stage that makes them says that it diverged."""
    once = {f"{name}.lr_images": 3e38, f"{name}.iterations": 1}
    once |= {f"{name}.outer_loops": 1} if name in with_field("outer_loops") else {}
    once |= {f"{name}.optimizer": "sgd"} if name in with_field("optimizer") else {}
    result = lab.run(lab.config(name, **once, **({"model.input": "zca"} if whitened else {})))
    if result.status == "complete":
        images = DistilledSet.load(result.paths["distilled"]).images
        assert images.isfinite().all() and 0 <= images.min() and images.max() <= 1
    else:
        kinds = ("gradient", "trajectory", "distribution")
        assert result.reason.startswith(tuple(f"{kind}-matching: " for kind in kinds))
