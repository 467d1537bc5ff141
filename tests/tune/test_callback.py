"""What the driver does for each finished trial."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from builders import configured, record
from guard.errors import StudyError
from tune.callback import DIED, StudyCallback
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
        self.paused: list[int] = []
        self.said: list[str] = []

    def finished(self, record: Record, best: Record | None) -> None:
        self.ended.append(record.trial)

    def finish(self, record: Record) -> None:
        self.tracked.append(record.trial)

    def pause(self, record: Record) -> None:
        self.paused.append(record.trial)

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


Fails = Callable[..., Any]


@pytest.fixture
def trial(tmp_path: Path) -> Fails:
    """A trial of Tune's, and how it failed."""

    def made(number: int, error: Exception | None = None) -> Any:
        config, file = {NUMBER: number, "is_control": False}, tmp_path / "error.pkl"
        file.write_bytes(ray.cloudpickle.dumps(error))
        return SimpleNamespace(config=config, pickled_error_file=str(file) if error else None)

    return made


def test_a_finished_trial_is_read_once_and_told(folder: StudyFolder, trial: Fails) -> None:
    ear = Ear()
    callback = called(folder, ear)
    folder.write(record(4))
    callback.on_trial_result(1, [], trial(4), {NUMBER: 4, "heading": "done"})
    assert ear.ended == ear.tracked == [4] and not callback.ending.stop_all()
    assert not (folder.path / "results.csv").exists(), "tables are for later"


def test_of_a_trial_that_may_go_on_only_the_curves_are_told(
    folder: StudyFolder, trial: Fails
) -> None:
    ear = Ear()
    callback = called(folder, ear)
    folder.write(record(4, status="stopped"))
    callback.on_trial_result(1, [], trial(4), {NUMBER: 4, "heading": "done"})
    assert ear.paused == [4] and ear.tracked == []


def test_failures_in_a_row_end_a_search(folder: StudyFolder, trial: Fails) -> None:
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


def test_any_number_of_failures_is_borne_if_so_wanted(folder: StudyFolder, trial: Fails) -> None:
    callback = called(folder, Ear(), max_failures=0)
    for number in range(20):
        callback.on_trial_error(1, [], trial(number, ValueError("no luck")))
    assert not callback.ending.stop_all()


def test_a_process_that_died_after_its_record_has_finished_its_trial(
    folder: StudyFolder, trial: Fails
) -> None:
    ear = Ear()
    folder.write(record(4))
    died = ray.exceptions.ActorDiedError()
    called(folder, ear).on_trial_error(1, [], trial(4, died))
    assert folder.records() == [record(4)] and ear.ended == [4]


def test_what_cannot_be_written_ends_the_search_and_no_trial_is_blamed(
    folder: StudyFolder, trial: Fails
) -> None:
    callback = called(folder, Ear())
    refused = StudyError("/out is full; make room")
    callback.on_trial_error(1, [], trial(4, refused))
    assert callback.ending.stop_all() and str(callback.ending.error) == str(refused)
    assert folder.records() == []
    assert callback.__getstate__() == {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ray.exceptions.ActorDiedError(), DIED),
        (ray.exceptions.RayTaskError("work", "trace", ValueError("why\nso")), "ValueError: so"),
        (None, DIED),
    ],
)
def test_a_trial_that_is_tried_again_is_told_with_its_reason(
    error: Exception | None, reason: str, folder: StudyFolder, trial: Fails
) -> None:
    ear = Ear()
    called(folder, ear).on_trial_recover(1, [], trial(4, error))
    assert ear.said == [f"trial 4 failed and is tried again: {reason}"]
    assert folder.records() == [] and ear.ended == []


def test_a_full_disk_is_nobodys_failure(folder: StudyFolder, trial: Fails) -> None:
    callback, ear = called(folder, Ear()), Ear()
    full = OSError(errno.ENOSPC, "No space left on device", "/out/artifacts/x")
    callback.on_trial_recover(1, [], trial(4, ray.exceptions.RayTaskError("w", "trace", full)))
    assert callback.ending.stop_all() and ear.said == []
    assert str(callback.ending.error).startswith(f"{folder.output} is full (No space left")
