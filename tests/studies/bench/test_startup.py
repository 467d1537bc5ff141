"""The table of what a user waits for; how long that is here is not asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from guard.errors import StudyError
from studies.bench import startup
from studies.bench.startup import AGAIN, FIRST, NAME, PLAN, SECOND
from tune.timeline import FILE, Span, append


def fake(*more: str) -> float:
    """A study whose workers begin five and seven seconds after its command."""
    folder = Path(more[1]) / NAME
    if "--dry-run" not in more and not folder.exists():
        folder.mkdir()
        now = time.time()
        begun = [("b", 7.0), ("a", 5.0), ("a", 6.0), ("b", 9.0)]
        append(folder / FILE, [span(worker, now + after) for worker, after in begun])
    return 1.0 if "--dry-run" in more else 3.0


def span(worker: str, start: float) -> Span:
    return Span(stage="squeeze", key=str(start), worker=worker, start=start, end=start + 1)


def test_a_workers_first_stage_is_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(startup, "seconds", fake)
    assert startup.main(["--rounds", "2"]) == 0
    _, _, *lines = capsys.readouterr().out.strip().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    found = {what: float(median) for what, median, _ in cells}
    assert found == {PLAN: 1.0, FIRST: 5.0, SECOND: 7.0, AGAIN: 3.0}


def test_one_worker_has_no_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def alone(*more: str) -> float:
        (tmp_path / NAME).mkdir(exist_ok=True)
        append(tmp_path / NAME / FILE, [span("a", time.time())])
        return 0.0

    monkeypatch.setattr(startup, "seconds", alone)
    assert SECOND not in startup.measured(tmp_path)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--rounds", "1"], "no such field"),
    ],
)
def test_what_cannot_be_measured_is_said(
    flags: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "STUDY", ("--set", "no.such=1"))
    with pytest.raises(StudyError, match=told):
        startup.main(flags)


@pytest.mark.slow
def test_a_real_round_has_every_figure(tmp_path: Path) -> None:
    found = startup.measured(tmp_path)
    assert {PLAN, FIRST, AGAIN} <= found.keys()
    assert 0 < found[AGAIN] and found[PLAN] < found[FIRST]
