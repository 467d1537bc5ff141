"""Tables of a running search: now and then, and what they say in the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from builders import configured, record
from tune.results import standing as module
from tune.results.folder import StudyFolder
from tune.results.standing import MAX_SHARE, TABLES_EVERY_S, Standing


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path, "s")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def written(folder: StudyFolder) -> int:
    """Rows of the table of results."""
    path = folder.path / "results.csv"
    return len(path.read_text().splitlines()) - 1 if path.is_file() else 0


def test_records_are_read_once(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (3, 1):
        folder.write(record(number))
    standing = Standing(folder, 0.03)
    monkeypatch.setattr(StudyFolder, "records", lambda self: pytest.fail("read again"))
    standing.add([record(2), record(1, 0.8)])
    assert standing.records == [record(1, 0.8), record(2), record(3)]
    standing.write_tables()
    assert written(folder) == 3


def test_tables_follow_at_once_and_then_now_and_then(
    folder: StudyFolder, clock: SimpleNamespace
) -> None:
    standing = Standing(folder, 0.03)
    for number, wait, rows in [(0, 0, 1), (1, 1, 1), (2, 1, 1), (3, TABLES_EVERY_S, 4), (4, 1, 4)]:
        clock.s += wait
        standing.add([record(number)])
        standing.write_tables_now_and_then()
        assert written(folder) == rows
    standing.write_tables()
    assert written(folder) == 5


def test_tables_that_take_long_are_written_less_often(
    folder: StudyFolder, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []

    def slowly(self: StudyFolder, *told: object) -> None:
        times.append(clock.s)
        clock.s += 2

    monkeypatch.setattr(StudyFolder, "write_tables", slowly)
    standing = Standing(folder, 0.03)
    for number in range(100):
        clock.s += 1
        standing.add([record(number)])
        standing.write_tables_now_and_then()
    assert times == [1001, 1003 + 2 / MAX_SHARE, 1005 + 4 / MAX_SHARE]


def test_nothing_new_is_not_written_again(folder: StudyFolder, clock: SimpleNamespace) -> None:
    standing = Standing(folder, 0.03)
    standing.write_tables()
    (folder.path / "results.csv").unlink()
    clock.s += 100
    standing.write_tables_now_and_then()
    assert written(folder) == 0


def test_what_an_interrupted_driver_would_have_written_is_what_the_end_writes(
    folder: StudyFolder,
) -> None:
    standing = Standing(folder, 0.03)
    for made in (record(1), record(0, 0.9, 0.1, configured(control=True))):
        folder.write(made)
        standing.add([made])
    standing.write_tables()
    names = ("results.csv", "pareto.csv", "best.json")
    first = [(folder.path / name).read_text() for name in names]
    Standing(folder, 0.03).write_tables()
    assert [(folder.path / name).read_text() for name in names] == first
    assert standing.best == record(1)
