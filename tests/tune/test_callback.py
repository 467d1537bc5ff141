"""What the driver does for each finished trial."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import configured, record
from guard.errors import StudyError
from tune.callback import StudyCallback
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.standing import Standing
from tune.trainable import NUMBER, StudyContext


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path, "s")


class Ear:
    """A watcher, and all that a callback writes to beside its tables."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.tracked: list[int] = []
        self.said: list[str] = []

    def finished(self, record: Record, best: Record | None) -> None:
        self.ended.append(record.trial)

    def finish(self, record: Record) -> None:
        self.tracked.append(record.trial)

    def tick(self, status: object) -> None: ...

    def update(self) -> None: ...

    def say(self, line: str) -> None:
        self.said.append(line)


def called(folder: StudyFolder, ear: Ear, **limits: int) -> StudyCallback:
    about: Any = {"base": configured().to_dict(), "output": str(folder.output), "name": folder.name}
    desk: Any = None
    watching: Any = ear
    context, standing = StudyContext(**about, desk="d"), Standing(folder, 0.03)
    return StudyCallback(context, desk, watching, watching, watching, standing, **limits)


def trial(number: int, error: Exception | None = None) -> Any:
    """A trial of Tune's."""
    config = {NUMBER: number, "is_control": False}
    return SimpleNamespace(config=config, get_pickled_error=lambda: error, get_error=lambda: None)


def test_a_finished_trial_is_read_once_and_told(folder: StudyFolder) -> None:
    ear = Ear()
    callback = called(folder, ear)
    folder.write(record(4))
    callback.on_trial_result(1, [], trial(4), {NUMBER: 4, "heading": "done"})
    assert ear.ended == ear.tracked == [4] and not callback.ending.stop_all()
    assert not (folder.path / "results.csv").exists(), "tables are for later"


def test_failures_in_a_row_end_a_search(folder: StudyFolder) -> None:
    ear = Ear()
    callback = called(folder, ear, max_failures=2)
    folder.write(record(1))
    callback.on_trial_error(1, [], trial(0, ValueError("no luck")))
    callback.on_trial_result(1, [], trial(1), {NUMBER: 1, "heading": "done"})
    callback.on_trial_error(1, [], trial(2, ValueError("no luck")))
    assert not callback.ending.stop_all()
    callback.on_trial_error(1, [], trial(3, ValueError("again")))
    assert callback.ending.stop_all() and callback.ending.error is None
    assert ear.said == [
        "2 trials in a row have failed, so the search ends (search.max_failures = 2); the last: "
        "ValueError: again"
    ]
    assert [(r.trial, r.reason) for r in folder.records() if not r.finished] == [
        (0, "ValueError: no luck"),
        (2, "ValueError: no luck"),
        (3, "ValueError: again"),
    ]


def test_any_number_of_failures_is_borne_if_so_wanted(folder: StudyFolder) -> None:
    callback = called(folder, Ear(), max_failures=0)
    for number in range(20):
        callback.on_trial_error(1, [], trial(number, ValueError("no luck")))
    assert not callback.ending.stop_all()


def test_a_process_that_died_after_its_record_has_finished_its_trial(folder: StudyFolder) -> None:
    ear = Ear()
    folder.write(record(4))
    called(folder, ear).on_trial_error(1, [], trial(4))
    assert folder.records() == [record(4)] and ear.ended == [4]


def test_what_cannot_be_written_ends_the_search_and_no_trial_is_blamed(
    folder: StudyFolder,
) -> None:
    callback = called(folder, Ear())
    refused = StudyError("/out is full; make room")
    callback.on_trial_error(1, [], trial(4, refused))
    assert callback.ending.stop_all() and callback.ending.error is refused
    assert folder.records() == []
    assert callback.__getstate__() == {}
