"""What a person sees while a study runs: one calm block on a terminal, plain lines in a file."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from guard.config import TrialConfig
from tune.records import OBJECTIVES, Record
from tune.stages import DeskStatus
from tune.tracking import run_name

PLAIN_EVERY_S = 30.0


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def scores(record: Record) -> str:
    clean, robust = (record.metrics.get(name, float("nan")) for name in OBJECTIVES)
    return f"clean {clean:.3f}, robust {robust:.3f}{warning(record)}"


def warning(record: Record) -> str:
    """What stands beside a robust accuracy that is not to be believed."""
    return f" (unreliable: {', '.join(record.flags)})" if record.flags else ""


def test_scores(record: Record) -> str:
    clean, robust = record.metrics["test/clean_accuracy"], record.metrics["test/robust_accuracy"]
    return f"test clean {clean:.3f}, robust {robust:.3f}{warning(record)}"


def describe(record: Record) -> str:
    return run_name(TrialConfig.from_dict(record.config))


class Progress:
    """A watcher (`tune.callback.Watcher`) that prints. Use as a context manager."""

    def __init__(self, console: Console, num_trials: int, already: int) -> None:
        self._console, self._num_trials, self._already = console, num_trials, already
        self._done = self._failed = self._confirmed = self._to_confirm = 0
        self._start = self._last_line = time.monotonic()
        self._best: Record | None = None
        self._status: DeskStatus | None = None
        self._live = Live(console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
            self._live.update(Text("starting the first trials …"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def finished(self, record: Record, best: Record | None) -> None:
        self._best = best
        if record.finished:
            self._done += 1
        else:
            self._failed += 1
        outcome = scores(record) if record.status == "complete" else record.status
        reason = f" ({record.reason})" if record.reason else ""
        count = f"[{self._already + self._done:>3}/{self._num_trials}]"
        line = f"{count} trial {record.trial:<3} {describe(record):<44} {outcome}{reason}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def confirming(self, count: int) -> None:
        """The search is over; so many runs confirm what it found."""
        self._confirmed, self._to_confirm = 0, count
        if count:
            self._console.print(f"confirming with new seeds on test images: {count} runs")

    def confirmed(self, record: Record) -> None:
        self._confirmed += 1
        outcome = test_scores(record) if record.status == "complete" else record.status
        reason = f" ({record.reason})" if record.reason else ""
        count = f"[{self._confirmed:>3}/{self._to_confirm}]"
        name = f"{describe(record)} seed {record.config['seed']}"
        line = f"{count} confirmation of trial {record.trial:<3} {name:<51} {outcome}{reason}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def tick(self, status: DeskStatus) -> None:
        self._status = status
        if self._console.is_terminal:
            self._live.update(Text("\n".join(self._block(status))))
        elif time.monotonic() - self._last_line > PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(" | ".join(self._block(status)), markup=False, soft_wrap=True)

    def _block(self, status: DeskStatus) -> list[str]:
        elapsed = time.monotonic() - self._start
        left = self._num_trials - self._already - self._done
        eta = f", about {duration(elapsed / self._done * left)} left" if self._done else ""
        running = ", ".join(f"{name} x{n}" for name, n in sorted(status.running.items())) or "none"
        failed = f", {self._failed} failed" if self._failed else ""
        count = f"{self._already + self._done} of {self._num_trials} trials{failed}"
        if self._to_confirm:
            count = f"{self._confirmed} of {self._to_confirm} runs of the confirmation"
            eta = ""
        lines = [
            f"{count}, {duration(elapsed)} so far{eta}",
            f"stages: {running} running, {status.waiting} waiting, {status.computed} done, "
            f"{status.shared} shared ({duration(status.saved_seconds)} saved)",
        ]
        if self._best is not None:
            lines.append(f"best so far: {describe(self._best)}: {scores(self._best)} (validation)")
        return lines
