from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Interrupted = Callable[..., str]
Quick = Callable[..., list[str]]

QUICK = (
    "model.width=4",
    "squeeze.epochs=2",
    "sre2l.iterations=10",
    "cda.iterations=10",
    "dc.iterations=1",
    "dsa.iterations=1",
    "mtt.iterations=1",
    "mtt.experts.count=1",
    "tesla.iterations=1",
    "tesla.experts.count=1",
    "mat.iterations=1",
    "mat.experts.count=1",
    "student.train.epochs=5",
    "evaluation.attacks=pgd3,fgsm",
    "evaluation.max_samples=100",
)


@pytest.fixture(scope="session")
def quick() -> Quick:
    """The command of a study that does a little of everything."""

    def command(study: str, output: Path, *flags: str) -> list[str]:
        varied = "model.width=" if study == "scaling" else "nothing"
        chosen = [setting for setting in QUICK if not setting.startswith(varied)]
        settings = [part for setting in chosen for part in ("--set", setting)]
        where = ["-m", f"studies.{study}", "--output", str(output)]
        return [sys.executable, *where, *settings, *flags]

    return command


@pytest.fixture(scope="session")
def interrupted() -> Interrupted:
    """What a study prints that gets signals after the first line with `mark`, and ends as it
    should."""

    def run(command: list[str], mark: str, *signals: signal.Signals) -> str:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            if mark in line and mark not in text:
                for number in signals:
                    process.send_signal(number)
            text += line
        assert process.wait(60) == 1, text
        assert "what is done is kept. Go on:" in text
        noise = ("Traceback", "core_worker", *(number.name for number in signals))
        assert not any(word in text for word in noise)
        return text

    return run
