"""What is said of the machine before a study starts."""

from __future__ import annotations

import pytest

from guard.config import ComputeConfig
from studies.driver import dryrun


@pytest.mark.parametrize(
    ("mode", "has", "here", "said"),
    [
        ("fast", False, True, True),
        ("fast", True, True, False),
        ("exact", False, True, False),
        ("fast", False, False, False),  # the device of another machine
    ],
)
def test_a_device_without_bfloat16_is_told(
    mode: str, has: bool, here: bool, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dryrun, "has_bfloat16", lambda device: has)
    monkeypatch.setattr(dryrun, "is_here", lambda device: here)
    compute = ComputeConfig.from_dict({"mode": mode})
    assert (
        list(dryrun.rounding_notes(compute))
        == ["the cpu of this machine has no bfloat16: fast mode takes float32"] * said
    )


@pytest.mark.parametrize(
    ("wanted", "has", "here", "said"),
    [(True, False, True, True), (True, True, True, False), (False, False, True, False)],
)
def test_a_machine_without_a_compiler_is_told(
    wanted: bool, has: bool, here: bool, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dryrun, "has_compiler", lambda device: has)
    monkeypatch.setattr(dryrun, "is_here", lambda device: here)
    told = list(dryrun.rounding_notes(ComputeConfig(compile=wanted)))
    assert told == ["this machine has no compiler for its cpu: nothing is compiled"] * said
