"""What every study goes through, on one that only pretends to work."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace

import pytest

from guard.errors import StudyError
from guard.trial import TrialConfig
from pretended import WRITTEN, Pretended
from studies.driver.run import run
from studies.driver.tracking import unsafe_files
from studies.reporting import page
from tune.places import held


def test_a_dry_run_is_the_plan_and_leaves_nothing(job: Pretended) -> None:
    job.request = replace(job.request, dry_run=True)
    job.missing = 3
    assert run(job) == 0
    assert job.told == ["plan"]
    assert not job.request.folder.path.exists()


def test_what_is_to_be_known_beforehand_is_said_first(
    job: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    job.configs = [TrialConfig().override({"method": "dc", "model.name": "resnet18"})]
    job.request = replace(job.request, dry_run=True)
    run(job)
    job.cautions = ["and so on"]
    run(job)
    found = capsys.readouterr().err.splitlines()
    assert found[0].startswith("beware: dc on resnet18: gradients match")
    assert found[-1] == "beware: and so on"


def test_a_finished_study_is_written_and_told_without_ray(
    job: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(job) == 0
    assert job.told == WRITTEN
    text = capsys.readouterr().out
    assert f"study {job.request.folder.path}: 3 of 3 trials are finished" in text
    assert "Go on" not in text


def test_what_is_missing_is_run_on_ray_and_then_told(job: Pretended) -> None:
    job.missing = 2
    assert run(job) == 0
    assert job.told == ["Ray", "work", "tables", "report", "finished", "summary"]


@pytest.mark.usefixtures("as_usual")
@pytest.mark.parametrize(
    ("number", "code"),
    [(None, 1), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_an_unfinished_study_is_told_and_says_how_to_go_on(
    number: signal.Signals | None, code: int, job: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    job.missing, job.after = 3, 1
    job.signals = (number,) if number else ()
    assert run(job) == code
    assert job.told == ["Ray", "work", "tables", "report", "killed", "summary"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "1 trials are unfinished; what is done is kept. Go on:"
    assert lines[-1] == f"  {job.request.command}"


def test_what_ends_the_work_is_said_and_what_there_is_is_written(
    job: Pretended, capfd: pytest.CaptureFixture[str]
) -> None:
    job.missing, job.after, job.fails = 3, 1, "/out is full; make room"
    assert run(job) == 1
    assert job.told == ["Ray", "work", "tables", "report", "killed", "summary"]
    told = capfd.readouterr()
    assert told.err.splitlines() == ["error: /out is full; make room"]
    assert "Go on:" in told.out


def test_a_signal_while_a_study_is_closed_changes_nothing(
    job: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.missing = 1
    monkeypatch.setattr(page, "write_report", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert run(job) == 0
    assert job.told == ["Ray", "work", "tables", "finished", "summary"]


def test_the_folder_is_claimed_with_the_command_and_without_the_options(job: Pretended) -> None:
    run(job)
    folder = job.request.folder.path
    about = json.loads((folder / "about.json").read_text())
    command = job.request.command
    assert about == {"study": "sweep", "command": command, "max_clean_drop": 0.03}
    stored = json.loads((folder / "study.json").read_text())
    assert stored["search ipc"] == "choice(1, 2)"
    assert not [name for name in stored if name.startswith(("search.", "confirm.", "run."))]


def test_what_a_killed_process_left_half_made_is_removed(job: Pretended) -> None:
    half = job.request.folder.artifacts / "squeeze" / ".0123-x"
    half.mkdir(parents=True)
    os.utime(half, (0, 0))
    run(job)
    assert not half.exists() and half.parent.exists()


def test_what_cannot_be_read_is_said_before_anything_is_done(
    job: Pretended, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job.request.folder.path / "trials" / "00000.json"
    path.parent.mkdir(parents=True)
    path.touch()
    run(job)
    assert capsys.readouterr().err.startswith(f"{path} is left out: it is empty; it is kept as")
    run(job)
    assert capsys.readouterr().err == ""


def test_a_file_system_without_locks_is_said(
    job: Pretended, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert run(job) == 0
    assert "has no locks (No locks available): take care that" in capsys.readouterr().err


def test_databases_on_a_network_are_said(
    job: Pretended, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.driver.tracking.is_on_network", lambda path: True)
    folder = job.request.folder
    run(job)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder.output}/mlflow.db is SQLite on a network's file system")
    (folder.path / "optuna.db").touch()
    run(job)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"{folder.path}/optuna.db is SQLite") and "optuna.journal" in line
    (line,) = unsafe_files(replace(job.request, tracking="http://127.0.0.1:1"))
    assert line.startswith(f"{folder.path}/optuna.db")


def test_a_folder_is_for_one_process(job: Pretended) -> None:
    with held(job.request.folder.path), pytest.raises(StudyError, match="is running already"):
        run(job)
    assert job.told == []


def test_a_folder_of_another_study_is_left_alone(job: Pretended) -> None:
    run(job)
    job.told.clear()
    job.varied = {"search ipc": "choice(3, 4)"}
    with pytest.raises(StudyError, match="was made with search ipc"):
        run(job)
    assert job.told == []


def test_tracking_that_cannot_be_opened_starts_and_claims_nothing(job: Pretended) -> None:
    job.missing, job.refuses = 3, True
    with pytest.raises(StudyError, match="does not answer"):
        run(job)
    assert job.told == []
    assert not (job.request.folder.path / "study.json").exists()
