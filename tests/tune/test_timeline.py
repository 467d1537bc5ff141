from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from tune.asking import Timeline
from tune.timeline import FILE, Span, append, read

SPANS = [
    Span(stage="squeeze", key="a1", worker="node/1", start=1000.25, end=1002.5),
    Span(stage="recover", key="b2", worker="node/2", start=1002.5, end=1003.0),
    Span(stage="squeeze", key="c3", worker="node/1", start=1002.75, end=1004.0),
]


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    append(tmp_path / FILE, SPANS[:2])
    append(tmp_path / FILE, [])
    append(tmp_path / FILE, SPANS[2:])
    assert read(tmp_path) == SPANS


def test_a_study_without_a_timeline_has_no_spans(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    assert read(tmp_path / "missing") == []


def test_nothing_seen_is_an_empty_timeline(tmp_path: Path) -> None:
    append(tmp_path / FILE, [])
    assert read(tmp_path) == []


@pytest.fixture
def desk() -> Any:
    return SimpleNamespace(take_spans=SimpleNamespace(remote=lambda: "a reference"))


def test_a_timeline_keeps_what_the_desk_has_seen(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [SPANS[:1], [], SPANS[1:]]
    monkeypatch.setattr("tune.asking.ray.get", lambda reference, timeout: left.pop(0))
    kept = Timeline(desk, tmp_path)
    for _ in range(3):
        kept.update()
    assert read(tmp_path) == SPANS


def test_a_busy_desk_is_asked_again_later(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(reference: Any, timeout: float) -> list[Span]:
        raise ray.exceptions.GetTimeoutError("busy")

    kept = Timeline(desk, tmp_path)
    monkeypatch.setattr("tune.asking.ray.get", busy)
    kept.update()
    assert read(tmp_path) == []
    monkeypatch.setattr("tune.asking.ray.get", lambda reference, timeout: SPANS)
    kept.update()
    assert read(tmp_path) == SPANS


def test_what_a_busy_desk_has_given_away_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It empties its list when it comes to a request, also to one whose answer nobody awaits."""
    answers: list[list[Span]] = [SPANS, []]
    desk = SimpleNamespace(take_spans=SimpleNamespace(remote=lambda: answers.pop(0)))
    busy = [True, False, False]

    def get(answer: list[Span], timeout: float) -> list[Span]:
        if busy.pop(0):
            raise ray.exceptions.GetTimeoutError("busy")
        return answer

    monkeypatch.setattr("tune.asking.ray.get", get)
    kept = Timeline(desk, tmp_path)
    for _ in range(3):
        kept.update()
    assert read(tmp_path) == SPANS


def test_a_desk_that_was_restarted_knows_of_nothing(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(reference: Any, timeout: float) -> list[Span]:
        raise ray.exceptions.ActorDiedError()

    kept = Timeline(desk, tmp_path)
    monkeypatch.setattr("tune.asking.ray.get", dead)
    kept.update()
    monkeypatch.setattr("tune.asking.ray.get", lambda reference, timeout: SPANS)
    kept.update()
    assert read(tmp_path) == SPANS


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    span = Span(stage="student", key="k", worker="w", start=0.0, end=1.0)
    append(tmp_path / FILE, [span])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"stage": "stu')
    assert read(tmp_path) == [span]
