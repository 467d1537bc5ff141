"""A distilled set that is larger than what its stages hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from guard.errors import StudyError
from studies.bench import large_set
from studies.bench.large_set import watched


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """19 and 151 MiB of images."""
    small, large = (
        {row[0]: float(row[2]) for row in large_set.rows(100, ipc, 64, tmp_path / str(ipc))}
        for ipc in (4, 33)
    )
    assert list(large) == [
        "parts and network",
        "put together",
        "an epoch labelled",
        "an epoch trained on",
    ]
    assert large["an epoch trained on"] - small["an epoch trained on"] < 0.05


def test_what_is_held_is_seen() -> None:
    def hold() -> None:
        ones = torch.ones(2**26)
        time.sleep(0.3)  # it is looked at from time to time
        assert len(ones) == 2**26

    held = watched(hold)
    assert held.own - watched(lambda: None).own > 0.9 * 4 * 2**26


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(StudyError, match="at least 1"):
        large_set.main(["--ipc", "0"])
