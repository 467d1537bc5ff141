"""Signals that ask a command to end."""

from __future__ import annotations

import gc
import signal

import pytest

from helpers import run_python
from studies.driver.interrupts import ASKING, Interrupts

pytestmark = pytest.mark.usefixtures("as_usual")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
COMMAND = """
import signal
from studies.driver import flags
flags.run(lambda argv: signal.raise_signal(signal.SIGTERM))
"""


@pytest.mark.parametrize("number", ASKING)
def test_the_first_ends_what_is_done_and_has_a_code(number: signal.Signals) -> None:
    before, after = signal.getsignal(number), []

    def work() -> int:
        signal.raise_signal(number)
        after.append("not reached")
        return 7

    with Interrupts() as asked:
        assert asked.until(work) is None
        signal.raise_signal(number)  # at once, as `uv run` passes it on: no second one
    assert after == [] and asked.first is number
    assert asked.exit_code == CODES[number]
    assert signal.getsignal(number) is before


def test_what_the_work_held_is_kept() -> None:
    class Held:
        def __del__(self) -> None:
            gone.append("gone")

    def work() -> None:
        held = Held()
        signal.raise_signal(signal.SIGTERM)
        assert held

    gone: list[str] = []
    with Interrupts() as asked:
        asked.until(work)
        assert gone == []
    del asked
    gc.collect()
    assert gone == ["gone"]


def test_one_that_comes_meanwhile_is_noted_and_nothing_begins() -> None:
    with Interrupts() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked.until(lambda: 7) is None
    assert asked.first is signal.SIGTERM


def test_work_that_is_not_interrupted_returns_and_later_signals_raise_nothing() -> None:
    with Interrupts() as asked:
        assert asked.until(lambda: 7) == 7
        signal.raise_signal(signal.SIGHUP)
    assert asked.first is signal.SIGHUP


def test_what_was_ignored_stays_ignored() -> None:
    """As SIGHUP is under `nohup`."""
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as asked:
            signal.raise_signal(signal.SIGHUP)
        assert asked.first is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, usual)


def test_one_that_the_inner_could_not_take_is_heard_outside() -> None:
    def work() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGTERM)
            raise KeyboardInterrupt

    with Interrupts() as asked:
        assert asked.until(work) is None
    assert asked.first is signal.SIGTERM


def test_a_second_one_ends_the_process_at_once() -> None:
    code = (
        "import signal\n"
        "from studies.driver import interrupts\n"
        "interrupts.REPEAT_S = -1.0\n"
        "with interrupts.Interrupts():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    assert run_python(code).returncode == -signal.SIGTERM


def test_a_command_ends_with_a_line_and_the_code_of_its_signal() -> None:
    done = run_python(COMMAND)
    assert done.returncode == 143
    assert done.stderr == "interrupted; what is done is kept: the same command goes on\n"
