"""What every study goes through, on one that only pretends to work."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import judged
from guard.errors import StudyError
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg
from studies import sweep
from studies.design.study import Results, Story
from studies.driver import session as sessions
from studies.driver.flags import parsed
from studies.driver.request import Request, settled
from studies.driver.run import run
from studies.driver.seal import FILE, is_sealed
from studies.driver.tracking import opened_store
from studies.reporting import delivery, page
from studies.reporting.console import Terminal
from tune.places import held
from tune.results.folder import StudyFolder
from tune.runs import Run
from tune.tracking import opening, tracker
from tune.tracking.options import TrackingConfig


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


WRITTEN = ["tables", "report", "delivered", "summary"]


def test_a_finished_study_that_is_as_it_was_left_is_only_told(job: Pretended) -> None:
    job.missing = 1
    run(job)
    job.told.clear()
    run(job)
    assert job.told == ["summary"]


def write_report(folder: StudyFolder) -> None:
    (folder.path / "report.html").write_text("another")


def write_record(folder: StudyFolder) -> None:
    (folder.path / "trials").mkdir()
    (folder.path / "trials" / "notes.txt").touch()


def write_tracking(folder: StudyFolder) -> None:
    (folder.output / "mlflow.db").write_bytes(b"x")


def write_artifact(folder: StudyFolder) -> None:
    (folder.output / "mlflow" / "run").mkdir(parents=True)
    (folder.output / "mlflow" / "run" / "config.json").touch()


def forget_seal(folder: StudyFolder) -> None:
    (folder.path / FILE).unlink()


def damage_seal(folder: StudyFolder) -> None:
    (folder.path / FILE).write_text("{")


@pytest.mark.parametrize(
    "change",
    [write_report, write_record, write_tracking, write_artifact, forget_seal, damage_seal],
)
def test_a_finished_study_of_which_anything_has_changed_is_written_again(
    change: Callable[[StudyFolder], None], job: Pretended
) -> None:
    run(job)
    change(job.request.folder)
    job.told.clear()
    run(job)
    assert job.told == WRITTEN
    job.told.clear()
    run(job)
    assert job.told == ["summary"]


def test_a_study_whose_verdicts_are_gone_is_not_as_it_was_left(job: Pretended) -> None:
    folder = job.request.folder
    done = Run(trial=0, config=TrialConfig(), params={}, control=True)
    folder.write(judged(folder.artifacts, done, 0.9, 0.7))
    run(job)
    assert is_sealed(job.request)
    shutil.rmtree(folder.records()[0].verdicts[0])
    assert not is_sealed(job.request)


@pytest.mark.parametrize(
    "more", [["--num-trials", "40"], ["--sampler", "gp"], ["--set", "search.reduction=3"]]
)
def test_a_finished_study_of_which_more_is_asked_is_not_only_told(
    more: list[str], job: Pretended
) -> None:
    run(job)
    job.told.clear()
    argv = ["--output", str(job.request.folder.output), "--name", "s", *more]
    job.request = replace(settled(parsed(sweep.parser(), argv)), command=job.request.command)
    run(job)
    assert job.told == WRITTEN


def test_a_finished_study_of_other_code_is_written_again(
    job: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job)
    job.told.clear()
    monkeypatch.setattr("studies.driver.seal.package_versions", lambda: {"torch": "0"})
    run(job)
    assert job.told == WRITTEN


def test_a_moved_output_is_written_again(job: Pretended, tmp_path: Path) -> None:
    run(job)
    folder = StudyFolder(tmp_path / "elsewhere", "s")
    folder.output.mkdir()
    job.request.folder.path.rename(folder.path)
    job.request = replace(job.request, folder=folder)
    job.told.clear()
    run(job)
    assert job.told == WRITTEN


def test_what_mlflow_does_not_take_is_delivered_the_next_time(job: Pretended) -> None:
    job.takes = False
    for _ in range(2):
        run(job)
    assert job.told == 2 * WRITTEN


def test_of_a_place_of_the_users_nothing_is_known(
    job: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(news=())
    monkeypatch.setattr(opening, "open_store", lambda uri, folder, options: found)
    job.request = replace(job.request, tracking="http://127.0.0.1:1")
    for _ in range(2):
        run(job)
    assert job.told == 2 * WRITTEN
    job.request = replace(job.request, tracking=None)
    job.told.clear()
    run(job)
    assert job.told == WRITTEN


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
