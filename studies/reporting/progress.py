"""What a person sees while a study runs: one calm block on a terminal, plain lines in a file."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.live import Live

from guard.robustness.flags import FLAGS
from studies.reporting.console import Terminal
from tune.results.records import Record

if TYPE_CHECKING:
    from tune.desk import DeskStatus

PLAIN_EVERY_S = 30.0


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def scores(record: Record) -> str:
    """Accuracies on the split that the run is for: validation while searching."""
    clean, robust = (math.nan if value is None else value for value in record.accuracies)
    return f"{record.split} clean {clean:.3f}, robust {robust:.3f}{warning(record)}"


def warning(record: Record) -> str:
    """What stands beside accuracies that are not to be taken as they are."""
    return f" (beware: {', '.join(record.flags)})" if record.flags else ""


def signs(record: Record) -> list[str]:
    """Why accuracies are not to be taken as they are, a sign each."""
    return [f"{name}: {FLAGS[name].meaning}" for name in record.flags]


class Progress:
    """A watcher (`tune.callback.Watcher`) that prints. Use as a context manager."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._last_line = time.monotonic()
        self._best: Record | None = None
        self._told: set[str] = set()
        self._live = Live(console=console, refresh_per_second=2, transient=True)
        self.begin("trials", 0)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
            self._live.update(self._console.render_str("starting the first trials …"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def begin(self, what: str, total: int, already: int = 0) -> None:
        """So many runs follow, of which some are done."""
        self._what, self._total, self._already = what, total, already
        self._done = self._failed = 0
        self._ended: set[str] = set()
        self._start = time.monotonic()

    def say(self, line: str) -> None:
        self._console.print(line)

    def finished(self, record: Record, best: Record | None = None) -> None:
        self._best = best
        if record.finished:
            self._done += record.label not in self._ended
            self._ended.add(record.label)
        else:
            self._failed += 1
        outcome = scores(record) if record.status == "complete" else record.status
        reason = f" ({record.reason})" if record.reason else ""
        width = len(str(self._total))
        count = f"[{self._already + self._done:>{width}}/{self._total}]"
        self.say(f"{count} trial {record.label:<3} {record.title:<44} {outcome}{reason}")

    def tick(self, status: DeskStatus) -> None:
        for damage in status.damaged:
            if damage not in self._told:
                self._told.add(damage)
                self.say(f"damaged, so computed again: {damage}")
        if self._console.is_terminal:
            self._live.update(self._console.render_str("\n".join(self._block(status))))
        elif time.monotonic() - self._last_line > PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(" | ".join(self._block(status)))

    def _block(self, status: DeskStatus) -> list[str]:
        elapsed = time.monotonic() - self._start
        left = self._total - self._already - self._done
        eta = f", about {duration(elapsed / self._done * left)} left" if self._done else ""
        running = ", ".join(f"{name} x{n}" for name, n in sorted(status.running.items())) or "none"
        failed = f", {self._failed} failed" if self._failed else ""
        count = f"{self._already + self._done} of {self._total} {self._what}{failed}"
        lines = [
            f"{count}, {duration(elapsed)} so far{eta}",
            f"stages: {running} running, {status.waiting} waiting, {status.computed} done, "
            f"{status.shared} shared ({duration(status.saved_seconds)} saved)",
        ]
        if status.lacking:
            lines.append(f"{status.lacking}; the cluster has none with so much now")
        if self._best is not None:
            lines.append(f"best so far: {self._best.title}: {scores(self._best)}")
        return lines
