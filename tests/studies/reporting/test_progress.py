from __future__ import annotations

import io
from dataclasses import replace

import pytest

from builders import record, scores
from studies.reporting import progress
from studies.reporting.console import Terminal
from studies.reporting.progress import Progress, duration
from tune.desk import DeskStatus
from tune.results.records import CONFIRMATION

STATUS = DeskStatus(
    running={"squeeze": 2},
    waiting=1,
    computed=7,
    shared=3,
    saved_seconds=65.0,
    lacking="",
    damaged=(),
)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (65, "1 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_gets_a_line_a_trial_and_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", -1.0)
    output = io.StringIO()
    with Progress(Terminal(file=output, width=200)) as shown:
        shown.begin("trials", 10, already=4)
        best = record(5, 0.9, 0.4)
        shown.finished(best, best)
        shown.finished(record(6, status="failed"), best)
        shown.finished(record(7, status="diverged"), best)
        shown.tick(STATUS)
    first, failed, diverged, status = output.getvalue().splitlines()
    assert first.startswith("[ 5/10] trial 5") and first.endswith(
        "validation clean 0.900, robust 0.400"
    )
    assert failed.startswith("[ 5/10] trial 6") and failed.endswith("failed (why)")
    assert diverged.startswith("[ 6/10] trial 7") and diverged.endswith("diverged (why)")
    assert status.startswith("6 of 10 trials, 1 failed")
    assert "squeeze x2 running, 1 waiting, 7 done, 3 shared (1 min 05 s saved)" in status
    assert "left" in status
    best_so_far = (
        "sre2l, IPC 10, curvature (λ = 0.1, h = 0.1): validation clean 0.900, robust 0.400"
    )
    assert status.endswith(f"best so far: {best_so_far}")


def test_what_was_damaged_is_said_once() -> None:
    output = io.StringIO()
    status = replace(STATUS, damaged=("squeeze/0a: model.safetensors cannot be read",))
    with Progress(Terminal(file=output, width=200)) as shown:
        shown.tick(status)
        shown.tick(status)
    said = "damaged, so computed again: squeeze/0a: model.safetensors cannot be read"
    assert output.getvalue().splitlines() == [said]


def test_a_terminal_gets_one_live_block() -> None:
    output = io.StringIO()
    console = Terminal(file=output, width=120, force_terminal=True)
    with Progress(console) as shown:
        shown.begin("trials", 3)
        shown.tick(STATUS)
        shown.finished(record(0, 0.9, 0.4), None)
    assert "0 of 3 trials" in output.getvalue()
    assert "[1/3] trial 0" in output.getvalue()


def test_a_confirmation_has_lines_and_a_count_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    on_test = record(5, metrics=scores(0.9, 0.4, "test"), phase=CONFIRMATION)
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", -1.0)
    output = io.StringIO()
    with Progress(Terminal(file=output, width=200)) as shown:
        shown.begin("runs of the confirmation", 2)
        shown.finished(on_test)
        shown.tick(STATUS)
        shown.finished(replace(on_test, status="failed"))
    first, status, failed = output.getvalue().splitlines()
    assert first.startswith("[1/2] trial 5 seed 0")
    assert first.endswith("test clean 0.900, robust 0.400")
    assert status.startswith("1 of 2 runs of the confirmation, ")
    assert failed.startswith("[1/2] trial 5 seed 0") and failed.endswith("failed")
