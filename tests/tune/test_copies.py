"""A study's folder in an object store: brought here, brought back, one driver's at a time."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import record
from guard.errors import StudyError
from tune import copies
from tune.copies import LEASE, brought
from tune.places import held
from tune.results.folder import StudyFolder

Machine = Callable[[str], StudyFolder]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A study as a machine of that name sees it."""

    def seen(name: str) -> StudyFolder:
        monkeypatch.setenv("GUARD_CACHE", str(tmp_path / name))
        return StudyFolder.at(f"file://{tmp_path}/store", "s")

    return seen


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "store" / "s"


def test_a_study_goes_on_on_another_machine(machine: Machine, there: Path) -> None:
    first = machine("a")
    with brought(first):
        first.write(record(0))
        first.write(record(1, phase="confirmation"))
        first.write_results(first.records())
    second = machine("b")
    assert second.records() == []
    with brought(second):
        assert second.records() == [record(0)] and len(second.confirmations()) == 1
        assert (second.path / "results.csv").read_bytes() == (there / "results.csv").read_bytes()
    assert str(second) == f"file://{there}" and second.place == first.place


def test_a_record_of_another_machine_is_read_at_once(machine: Machine) -> None:
    driver, worker = machine("a"), machine("b")
    assert driver.read(3) is None
    worker.write(record(3))
    assert driver.read(3) == record(3)
    driver.remove(record(3))
    assert worker.read(3) is None


def test_a_record_that_is_gone_there_is_gone_here(machine: Machine, there: Path) -> None:
    folder = machine("a")
    folder.write(record(0))
    (there / "trials" / "00000.json").unlink()
    with brought(folder):
        assert folder.records() == []


def test_what_is_newer_there_replaces_what_is_here(machine: Machine, there: Path) -> None:
    folder = machine("a")
    with brought(folder):
        (folder.path / "about.json").write_text("{}")
    time.sleep(0.01)
    (there / "about.json").write_text("[]")
    with brought(folder):
        assert (folder.path / "about.json").read_text() == "[]"


def test_only_what_has_changed_is_sent(
    machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sent = machine("a"), list[str]()
    usual = copies.Objects.upload
    monkeypatch.setattr(
        copies.Objects, "upload", lambda self, p, name: (sent.append(name), usual(self, p, name))
    )
    assert folder.objects is not None
    with brought(folder):
        (folder.path / "a.csv").write_text("1")
        (folder.path / ".hidden").write_text("1")
        (folder.path / "optuna.db-journal").write_text("1")
        copy = copies.Copy(folder, folder.objects)
        copy.push()
        copy.push()
        assert sent == ["a.csv"]
        (folder.path / "a.csv").write_text("22")
        copy.push()
    assert sent == ["a.csv", "a.csv", "a.csv"]  # the last by the context's own copy
    assert (there / "a.csv").read_text() == "22"


def test_a_database_is_sent_between_two_writes(machine: Machine, there: Path) -> None:
    folder = machine("a")
    with brought(folder):
        database = sqlite3.connect(folder.path / "optuna.db")
        database.execute("create table t (x)")
        database.commit()
        database.execute("insert into t values (1)")  # not committed
        assert folder.objects is not None
        copies.Copy(folder, folder.objects).push()
        found = sqlite3.connect(there / "optuna.db").execute("select count(*) from t").fetchone()
        assert found == (0,)
        database.commit()
        database.close()
    found = sqlite3.connect(there / "optuna.db").execute("select count(*) from t").fetchone()
    assert found == (1,)


def test_what_changes_is_sent_now_and_then(
    machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PUSH_EVERY_S", 0.05)
    folder = machine("a")
    with brought(folder):
        (folder.path / "results.csv").write_text("1")
        deadline = time.monotonic() + 30
        while not (there / "results.csv").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_study_is_one_driver_s_at_a_time(
    machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine("a")
    with brought(folder):
        monkeypatch.setattr(copies.socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(StudyError, match=r"is running already on .*free in (90|89) s"):
            with brought(folder):
                pass
        with brought(folder, alone=False):  # a report may be read meanwhile
            pass
        assert (there / LEASE).is_file()
    assert not (there / LEASE).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"owner": "x"}', '{"owner": "x", "until": 5}'])
def test_a_lease_that_is_over_or_none_is_taken(text: str, machine: Machine, there: Path) -> None:
    there.mkdir(parents=True)
    (there / LEASE).write_text(text)
    with brought(machine("a")):
        assert json.loads((there / LEASE).read_text())["until"] > time.time() + 60


def test_a_lease_is_renewed(machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PUSH_EVERY_S", 0.05)
    monkeypatch.setattr(copies, "LEASE_S", 0.4)
    with brought(machine("a")):
        first = json.loads((there / LEASE).read_text())["until"]
        time.sleep(1.0)
        assert json.loads((there / LEASE).read_text())["until"] > max(first, time.time() - 0.3)


def test_a_study_that_another_driver_has_taken_over_is_left_to_it(
    machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an outage that was longer than the lease."""
    monkeypatch.setattr(copies, "PUSH_EVERY_S", 0.05)
    monkeypatch.setattr(copies, "LEASE_S", 0.4)
    folder = machine("a")
    other = json.dumps({"owner": "elsewhere, process 1", "until": time.time() + 60})
    with pytest.raises(StudyError, match=r"elsewhere, process 1.* is in .*/a/.* alone"):
        with brought(folder):
            (there / LEASE).write_text(other)
            time.sleep(1.0)
            (folder.path / "results.csv").write_text("of the first driver")
            time.sleep(0.5)
    assert (there / LEASE).read_text() == other, "it is not given back: it is the other's"
    assert not (there / "results.csv").exists()


def test_what_cannot_be_brought_is_free_for_others(
    machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(copy: copies.Copy) -> None:
        raise OSError("refused")

    monkeypatch.setattr(copies.Copy, "pull", refused)
    with pytest.raises(StudyError, match="refused"), brought(machine("a")):
        pass
    assert not (there / LEASE).exists()


def test_what_a_driver_of_this_machine_has_is_read_as_it_is(machine: Machine, there: Path) -> None:
    folder = machine("a")
    with held(folder.path), brought(folder):
        (folder.path / "timeline.jsonl").write_text("newer, not there yet")
        (there / "timeline.jsonl").write_text("older")
        with brought(folder, alone=False):
            assert (folder.path / "timeline.jsonl").read_text() == "newer, not there yet"
        assert (there / "timeline.jsonl").read_text() == "older"


def test_an_unreadable_record_is_kept_there_too(machine: Machine, there: Path) -> None:
    first = machine("a")
    with brought(first):
        first.write(record(0))
    (there / "trials" / "00000.json").write_text("{")
    for name in ("b", "c"):
        folder = machine(name)
        with brought(folder):
            told = folder.set_aside()
            assert len(told) == (name == "b")
            kept = folder.path / "trials" / "00000.json.unreadable"
            assert kept.read_text() == "{" and folder.records() == []


def test_a_plain_folder_is_left_alone(tmp_path: Path) -> None:
    folder = StudyFolder.at(str(tmp_path), "s")
    with brought(folder):
        assert folder.objects is None and list(tmp_path.iterdir()) == []


def test_a_store_that_refuses_is_one_line(machine: Machine, there: Path) -> None:
    there.parent.mkdir()
    there.write_text("a file where a folder belongs")
    with pytest.raises(StudyError) as caught, brought(machine("a")):
        pass
    assert "\n" not in str(caught.value)
