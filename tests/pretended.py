"""A study that only pretends to work."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guard.errors import StudyError
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg
from studies import sweep
from studies.design.study import Story
from studies.driver.request import Request
from studies.reporting.console import Terminal
from tune.results.findings import Results

WRITTEN = ["tables", "report", "delivered", "summary"]
"""What a finished study does that is not as it was left."""


@dataclass(kw_only=True)
class Pretended:
    """A study of three trials, of which some are missing and some do not end."""

    request: Request
    missing: int = 0
    after: int = 0
    signals: tuple[signal.Signals, ...] = ()
    """That come while it works."""
    told: list[str] = field(default_factory=list)
    refuses: bool = False
    """Whether its tracking cannot be opened."""
    fails: str = ""
    """Why it cannot go on."""
    takes: bool = True
    """Whether that takes everything."""
    story: Story = sweep.STORY
    base: TrialConfig = field(default_factory=TrialConfig)
    configs: Sequence[TrialConfig] = ()
    cautions: Sequence[str] = ()
    varied: Mapping[str, str] = field(default_factory=lambda: {"search ipc": "choice(1, 2)"})

    def print_plan(self, console: Terminal) -> None:
        self.told.append("plan")

    def counted(self) -> tuple[int, int]:
        return 3 - self.missing, 3

    def unfinished(self) -> str:
        return f"{self.missing} trials" if self.missing else ""

    def queued(self) -> Sequence[tuple[TrialConfig, Leg]]:
        return [(config, WHOLE) for config in self.configs]

    def work(self, session: Any) -> None:
        self.told.append("work")
        self.missing = self.after
        for number in self.signals:
            signal.raise_signal(number)
        if self.fails:
            raise StudyError(self.fails)

    def write_tables(self) -> None:
        self.told.append("tables")

    def print_summary(self, console: Terminal, results: Results) -> None:
        assert results.folder == self.request.folder
        self.told.append("summary")
