from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guard.errors import UserError
from guard.trial import TrialConfig
from studies.driver.checks import checked_space, parse_resources
from studies.driver.settings import parse_settings, search_space
from studies.presets import PRESETS
from tune.resources import Resources
from tune.space import SearchSpace


def space(settings: list[str]) -> SearchSpace:
    return search_space(PRESETS["digits"](), parse_settings(settings), None)


def test_resources_have_a_default_by_device_and_exceptions_by_stage() -> None:
    config = TrialConfig().override({"compute.num_threads": 4})
    parsed = parse_resources(["squeeze=8,0.5", "recover=2"], config)
    assert parsed.of("evaluate") == Resources(4, 0)
    assert parsed.of("squeeze") == Resources(8, 0.5)
    assert parsed.of("recover") == Resources(2, 0)
    assert parse_resources(["all=1,0.25"], config).of("student") == Resources(1, 0.25)
    on_gpu = config.override({"compute.device": "cuda"})
    assert parse_resources([], on_gpu).of("squeeze") == Resources(4, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("all=1,0.5,2", r"must be STAGE=CPUS\[,GPUS\], got 'all=1,0.5,2'"),
        ("all=1,", "must be STAGE=CPUS"),
        ("all=", "must be STAGE=CPUS"),
        ("all", "must be STAGE=CPUS"),
        ("all=two", "must be STAGE=CPUS"),
        ("all=0", "CPUs above 0"),
        ("all=inf", "CPUs above 0"),
        ("all=nan", "CPUs above 0"),
        ("all=1,1.5", "GPUs a fraction or a whole number"),
        ("all=1,inf", "GPUs a fraction or a whole number"),
        ("sqeeze=1", "no stage is named 'sqeeze'"),
    ],
)
def test_resources_that_are_none_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--resources: .*{reason}"):
        parse_resources([text], TrialConfig())


def test_the_content_of_the_data_becomes_part_of_the_config() -> None:
    checked = checked_space(space([]))
    assert len(checked.base.data.sha256) == 64


def test_more_images_per_class_than_there_are_is_refused_where_real_ones_are_used() -> None:
    checked_space(space(["ipc=choice(1, 500)"]))
    checked_space(space(["ipc=choice(1, 500)", "method=dc"]))
    for settings in (["method=dsa"], ["method=mtt"], ["method=choice(sre2l, random)"]):
        made = space([*settings, "ipc=choice(1, 500)"])
        with pytest.raises(UserError, match=r"ipc: \w+ starts from real images and the smallest"):
            checked_space(made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.width=100000000"], r"^model\.width: 100000000 needs .* GiB, and this machine has"),
        (["model.width=1e15"], r"^model\.width = 1000000000000000 makes weights that fit in no"),
        (["method=dsa", "dsa.model.width=100000000"], r"^dsa\.model\.width: 100000000 needs "),
        (['student.model={"width": 100000000}'], r"^student\.model\.width: 100000000 needs "),
        (["ipc=1000000000"], r"^ipc: 1000000000 needs .* GiB"),
        (["model.depth=1000000"], r"^model\.depth: must be at least 1 and at most 1000, got"),
    ],
)
def test_what_fits_in_no_memory_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_space(space(settings))


def test_images_too_large_to_be_evaluated_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.device.memory_bytes", lambda: 4 * 700 * 359)
    with pytest.raises(UserError, match=r"^evaluation\.batch_size: 359 of 8 px needs "):
        checked_space(space(["ipc=1", "model.width=4"]))


def test_a_set_without_anything_to_see_is_refused(tmp_path: Path) -> None:
    x, y = np.zeros((12, 6, 6), np.uint8), np.arange(12) % 3
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    made = search_space(PRESETS["digits"](), {}, str(tmp_path / "x.npz"))
    with pytest.raises(UserError, match="x_train: all of 12 images have one colour all over"):
        checked_space(made)
