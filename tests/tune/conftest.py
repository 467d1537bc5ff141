"""Ray reads its settings from the environment when it is imported, so `tune` comes first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import tune  # noqa: F401
from guard.pipeline import TrialResult
from guard.trial import TrialConfig
from tune import runs

Pretend = Callable[[Callable[[TrialConfig], TrialResult]], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Replace the work of a trial of `run_all`."""

    def use(result: Callable[[TrialConfig], TrialResult]) -> None:
        monkeypatch.setattr(runs, "run_trial", lambda config, run_stage, leg: result(config))

    return use
