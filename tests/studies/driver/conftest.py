from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guard.errors import StudyError
from pretended import Pretended
from studies import sweep
from studies.driver import session as sessions
from studies.driver.flags import parsed
from studies.driver.request import settled
from studies.driver.tracking import opened_store
from studies.reporting import delivery, page
from studies.reporting.console import Terminal
from tune.results.folder import StudyFolder
from tune.tracking import opening, tracker
from tune.tracking.options import TrackingConfig


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    argv = ["--output", str(tmp_path), "--name", "s"]
    pretended = Pretended(request=settled(parsed(sweep.parser(), argv)))

    @contextlib.contextmanager
    def opened(console: Terminal, *others: Any) -> Iterator[None]:
        if others[-1] is None:
            opened_store(console, pretended.request)
        pretended.told.append("Ray")
        yield

    def close(console: Terminal, session: None, *others: Any, done: bool) -> bool:
        pretended.told.append("finished" if done else "killed")
        return pretended.takes

    def report(*others: Any) -> None:
        pretended.told.append("report")

    def deliver(*others: Any) -> bool:
        pretended.told.append("delivered")
        return pretended.takes

    def open_store(uri: str, folder: StudyFolder, options: TrackingConfig) -> SimpleNamespace:
        assert uri == folder.tracking_uri and options == TrackingConfig()
        if pretended.refuses:
            raise StudyError("MLflow at x does not answer")
        return SimpleNamespace(news=[])

    monkeypatch.setattr(sessions, "opened", opened)
    monkeypatch.setattr(sessions, "close", close)
    monkeypatch.setattr(page, "write_report", report)
    monkeypatch.setattr(delivery, "deliver", deliver)
    monkeypatch.setattr(opening, "open_store", open_store)
    monkeypatch.setattr(tracker, "Tracker", lambda *others: None)
    return pretended
