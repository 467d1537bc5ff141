"""Ctrl-C, SIGTERM (with which batch systems end a job) and SIGHUP (of a terminal that closes)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a command to end."""
REPEAT_S = 1.0
"""Batch systems send SIGTERM to `uv run` too, which passes it on: that is no second one."""

Result = TypeVar("Result")


class Interrupts:
    """The signals that ask to end, for as long as this lasts; one that is ignored (`nohup`) stays
    so. The first is noted, and ends `until`; another, a second later, ends the process at once."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._heard_at = 0.0
        self._raises = False
        self._ended: KeyboardInterrupt | None = None

    def __enter__(self) -> Interrupts:
        before = {number: signal.getsignal(number) for number in ASKING}
        self._before = {n: found for n, found in before.items() if found is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.first is not None and isinstance(error, KeyboardInterrupt):
            signal.raise_signal(self.first)  # it did not end here

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, as shells have it."""
        return 128 + (self.first or signal.SIGINT)

    def until(self, work: Callable[[], Result]) -> Result | None:
        """What the work returns; None if a signal came first, which raises KeyboardInterrupt in the
        work. What the work held is kept as long as this: letting go of it may ask a Ray that the
        same signal has ended."""
        try:
            self._raises = True
            return work() if self.first is None else None
        except KeyboardInterrupt as error:
            self._ended = error
            return None
        finally:
            self._raises = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.first, self._heard_at = signal.Signals(number), time.monotonic()
            if self._raises:
                raise KeyboardInterrupt
        elif time.monotonic() - self._heard_at > REPEAT_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
