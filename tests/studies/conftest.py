from __future__ import annotations

from collections.abc import Callable

import pytest

from guard.config import TrialConfig
from tune.records import Record

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record() -> MakeRecord:
    def make(
        trial: int,
        clean: float,
        robust: float,
        *,
        status: str = "complete",
        control: bool = False,
        ipc: int = 10,
    ) -> Record:
        config = TrialConfig().override({"ipc": ipc})
        config = config.unregularized() if control else config
        figures = {"clean_accuracy": clean, "robust_accuracy": robust, "num_samples": 100.0}
        metrics = {
            f"{split}/{name}": value
            for split in ("validation", "test")
            for name, value in figures.items()
        }
        plain = (config.to_dict(), config.fingerprint())
        complete = metrics if status == "complete" else {}
        return Record(trial, status, "why" * (not complete), control, {}, *plain, complete)

    return make
