from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import signals_as_usual
from studies import samplers

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


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `studies.samplers`, whose own has 260 trials."""
    monkeypatch.setattr(samplers, "POINTS", 3)


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


def left(session: int) -> list[str]:
    """What runs in a session of the operating system: a study's own process and Ray's."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, fields = stat.read_text().rpartition(") ")
            state, _, _, its_session = fields.split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(name)
    return found


@pytest.fixture
def as_usual() -> Iterator[None]:
    with signals_as_usual():
        yield


@pytest.fixture(scope="session")
def interrupted() -> Interrupted:
    """What a study prints that gets signals after the first line with `mark`, and ends as it
    should, with nothing of it left."""

    def run(command: list[str], mark: str, *signals: signal.Signals) -> str:
        with signals_as_usual():
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            if mark in line and mark not in text:
                for number in signals:
                    process.send_signal(number)
            text += line
        assert process.wait(60) == 128 + signals[0], text
        assert "what is done is kept. Go on:" in text
        noise = ("Traceback", "core_worker", *(number.name for number in signals))
        assert not any(word in text for word in noise)
        until = time.monotonic() + 10
        while left(process.pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert left(process.pid) == []
        return text

    return run


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from browsing import headless

    yield from headless()
