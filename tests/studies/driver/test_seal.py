"""A finished study that is asked for again, as it was left or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from builders import judged
from guard.trial import TrialConfig
from pretended import WRITTEN, Pretended
from studies import sweep
from studies.driver.flags import parsed
from studies.driver.request import settled
from studies.driver.run import run
from studies.driver.seal import FILE, is_sealed
from tune.results.folder import StudyFolder
from tune.runs import Run
from tune.tracking import opening


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
