from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest

from guard.config import TrialConfig
from tune.records import Record

MakeRecord = Callable[..., Record]
Interrupted = Callable[[list[str], str, signal.Signals], str]


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


@pytest.fixture(scope="session")
def interrupted() -> Interrupted:
    """What a study prints that gets a signal after a line with `mark`, and ends as it should."""

    def run(command: list[str], mark: str, number: signal.Signals) -> str:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if mark in line:
                process.send_signal(number)
        assert process.wait(60) == 1, text
        assert "what is done is kept. Go on:" in text
        assert "Traceback" not in text and number.name not in text
        return text

    return run
