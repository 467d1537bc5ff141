"""Jobs for a place that may be away: one thread, in order, each tried until it succeeds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tune.causes import reason

ATTEMPTS = 3
"""At a job that is refused by a place that answers."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
TICK_S, PATIENCE_S = 0.05, 3.0
AWAY_TIMEOUT_S, STILL_TIMEOUT_S = 10.0, 300.0
"""How long `close` waits for a place that fails, and without a job that succeeds."""


@dataclass(frozen=True)
class Job:
    """Something to be done, and for whom."""

    label: str
    do: Callable[[], None]


class Courier:
    """Does jobs in the background.

    look: asks the place what it has, unless that is known; raises while it is away.
    forget: what was known may be wrong, since a job has failed.
    """

    def __init__(self, look: Callable[[], None], forget: Callable[[], None]) -> None:
        self._look, self._forget = look, forget
        self._changed = threading.Condition()
        self._soon: deque[Job] = deque()
        self._later: deque[Job] = deque()
        self._last: deque[Job] = deque()
        self._stop = threading.Event()
        self._done_at = time.monotonic()
        self._failing_since: float | None = None
        self.why = ""
        """The last failure."""
        self.refused: dict[str, Job] = {}
        """By label: what failed, though the place answers."""
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def add(self, job: Job) -> None:
        """After those that were added before."""
        self._put(self._soon, job)

    def add_later(self, job: Job) -> None:
        """When there is nothing else to do."""
        self._put(self._later, job)

    def close(self, last: Job, waits: Callable[[], None] = lambda: None) -> bool:
        """Whether everything is done, the last job after all others and what was refused once
        more. Waits until it is, or until the place is away or nothing gets done for a while.

        waits: called once if that takes more than some seconds.
        """
        for job in self.refused.copy().values():
            self._put(self._later, job)
        self._put(self._last, last)
        closing = time.monotonic()
        is_said = False
        while self._thread.is_alive() and not self._is_vain(closing):
            self._thread.join(TICK_S)
            if not is_said and time.monotonic() - closing > PATIENCE_S:
                is_said = True
                waits()
        is_done = not self._thread.is_alive()
        self._stop.set()
        return is_done and not self.refused

    def _is_vain(self, closing: float) -> bool:
        now, failing = time.monotonic(), self._failing_since
        is_away = failing is not None and now - max(failing, closing) > AWAY_TIMEOUT_S
        return is_away or now - max(self._done_at, closing) > STILL_TIMEOUT_S

    def _put(self, jobs: deque[Job], job: Job) -> None:
        with self._changed:
            jobs.append(job)
            self._changed.notify()

    def _work(self) -> None:
        is_last = False
        while not (is_last or self._stop.is_set()):
            with self._changed:
                self._changed.wait_for(lambda: self._soon or self._later or self._last)
                jobs = next(jobs for jobs in (self._soon, self._later, self._last) if jobs)
                job = jobs.popleft()
            is_last = jobs is self._last
            self._carry_out(job)

    def _carry_out(self, job: Job) -> None:
        for attempt in range(ATTEMPTS):
            if not self._is_there():
                return
            try:
                job.do()
            except Exception as error:  # whatever fails here fails no trial
                self._failed(error)
                self._forget()
                self._stop.wait(FIRST_PAUSE_S * 2**attempt)
            else:
                self._done_at = time.monotonic()
                self.refused.pop(job.label, None)
                return
        self.refused[job.label] = job

    def _is_there(self) -> bool:
        """Waits until the place answers; False once nobody waits for it any more."""
        pause = FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                self._look()
                self._failing_since = None
                return True
            except Exception as error:
                self._failed(error)
            self._stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return False

    def _failed(self, error: Exception) -> None:
        self.why = reason(error)
        self._failing_since = self._failing_since or time.monotonic()
