from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from tune.results.folder import StudyFolder
from tune.tracking import courier, live


@pytest.fixture
def study(tmp_path: Path, empty_database: Path) -> StudyFolder:
    """The folder of a study whose output has a database."""
    folder = StudyFolder(tmp_path / "runs", "s")
    folder.path.mkdir(parents=True)
    shutil.copy(empty_database, folder.output / "mlflow.db")
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses and waits of a test; a study's curves are told in the end, however long it takes."""
    monkeypatch.setattr(courier, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(courier, "AWAY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(live, "INTERVAL_S", math.inf)
