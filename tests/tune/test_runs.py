from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import configured, ended, planned, record
from guard.errors import StudyError
from guard.pipeline import TrialResult
from guard.trial import TrialConfig
from guard.trial_stages import Leg
from tune import runs as runs_module
from tune.results.folder import StudyFolder
from tune.results.records import CONFIRMATION, Record
from tune.runs import Run, run_all, unfinished

Pretend = Callable[[Callable[[TrialConfig], TrialResult]], None]


RUNS = [
    planned(number, configured({"seed": number}), params={"seed": number}) for number in range(4)
]


def of(run: Run, status: str) -> Record:
    return record(run.trial, config=run.config, status=status)


def no_runner(stop: threading.Event) -> Any:
    return None


def do(
    folder: StudyFolder, runs: list[Run], slots: int = 2, tick: Callable[[], None] = lambda: None
) -> list[Record]:
    told: list[Record] = []
    run_all(folder, runs, no_runner, slots, told.append, tick)
    return told


def test_complete_and_diverged_runs_are_finished_and_failed_ones_are_not() -> None:
    statuses = ("complete", "diverged", "failed")
    records = [of(own, status) for own, status in zip(RUNS, statuses, strict=False)]
    assert unfinished(RUNS, records) == RUNS[2:]


def test_an_interrupt_stops_what_runs_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def until_stopped(config: TrialConfig, stop: threading.Event, leg: Leg) -> TrialResult:
        assert stop.wait(60)
        stopped.set()
        raise StudyError("stopped")

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs_module, "run_trial", until_stopped)
    folder = StudyFolder(tmp_path, "s")
    with pytest.raises(KeyboardInterrupt):
        run_all(folder, RUNS[:1], lambda stop: stop, 1, print, interrupt)  # type: ignore[arg-type, return-value]
    assert stopped.is_set()
    assert folder.records() == []


def test_a_run_that_failed_and_then_finished_is_finished() -> None:
    records = [of(RUNS[0], "failed"), of(RUNS[0], "complete")]
    assert unfinished(RUNS[:1], records) == []


def test_a_finished_run_is_known_by_its_config_and_not_by_its_number() -> None:
    moved = replace(RUNS[0], trial=9, params={}, phase=CONFIRMATION)
    assert unfinished([moved], [of(RUNS[0], "complete")]) == []
    changed = replace(RUNS[0], config=RUNS[0].config.override({"ipc": 3}))
    assert unfinished([changed], [of(RUNS[0], "complete")]) == [changed]


def test_the_same_data_elsewhere_is_no_other_run() -> None:
    here, there = (
        planned(0, configured({"data.path": place, "data.sha256": "a" * 64}))
        for place in ("/here", "/there")
    )
    assert unfinished([there], [of(here, "complete")]) == []


def test_a_diverged_run_is_recorded_with_its_reason(tmp_path: Path, pretend: Pretend) -> None:
    pretend(lambda config: ended("diverged", "squeeze: the loss is nan"))
    folder = StudyFolder(tmp_path, "s")
    do(folder, RUNS)
    assert {(r.status, r.reason) for r in folder.records()} == {
        ("diverged", "squeeze: the loss is nan")
    }
    assert unfinished(RUNS, folder.records()) == []


def test_a_failure_is_recorded_in_one_line_and_the_others_go_on(
    tmp_path: Path, pretend: Pretend
) -> None:
    def work(config: TrialConfig) -> TrialResult:
        if config.seed == 1:
            raise OSError("no disk\n  left")
        return ended("complete")

    pretend(work)
    folder = StudyFolder(tmp_path, "s")
    told = do(folder, RUNS)
    assert len(told) == len(RUNS)
    first, failed, *others = folder.records()
    assert {r.status for r in (first, *others)} == {"complete"}
    assert (failed.status, failed.reason) == ("failed", "OSError: left")
    assert (failed.trial, failed.control, failed.params) == (1, False, {"seed": 1})
    assert failed.fingerprint == RUNS[1].config.fingerprint()
    assert TrialConfig.from_dict(failed.config) == RUNS[1].config
    assert (failed.metrics, failed.stages, failed.seconds) == ({}, (), 0)
    assert unfinished(RUNS, folder.records()) == [RUNS[1]]


def test_a_later_success_takes_the_place_of_a_failure(tmp_path: Path, pretend: Pretend) -> None:
    def fail(config: TrialConfig) -> TrialResult:
        raise OSError("no disk")

    folder = StudyFolder(tmp_path, "s")
    for work in (fail, lambda config: ended("complete")):
        pretend(work)
        do(folder, unfinished(RUNS[:1], folder.records()))
    assert [(r.trial, r.status) for r in folder.records()] == [(0, "complete")]


def test_no_more_runs_than_slots_are_at_work(tmp_path: Path, pretend: Pretend) -> None:
    lock, both = threading.Lock(), threading.Barrier(2)
    working, most = 0, 0

    def work(config: TrialConfig) -> TrialResult:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        both.wait(timeout=10)
        time.sleep(0.05)
        with lock:
            working -= 1
        return ended("complete")

    pretend(work)
    do(StudyFolder(tmp_path, "s"), RUNS, slots=2)
    assert most == 2


def test_others_are_heard_while_runs_are_at_work(tmp_path: Path, pretend: Pretend) -> None:
    ticks: list[int] = []
    pretend(lambda config: ended("complete"))
    do(StudyFolder(tmp_path, "s"), RUNS, tick=lambda: ticks.append(threading.get_ident()))
    assert ticks and set(ticks) == {threading.get_ident()}


def test_nothing_to_do_is_done_at_once(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    assert do(folder, []) == []
    assert not folder.path.exists()
