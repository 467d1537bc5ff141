from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from builders import configured, record
from tune.results.folder import StudyFolder
from tune.results.reading import parse_json, read_object
from tune.results.records import CONFIRMATION

BAD = {
    "": "it is empty",
    "\0\0\0\0": "it is empty",
    '{"a": 1': "it is no JSON: Expecting",
    "[" * 100_000: "nested more than 50 levels deep",
    "[" * 60 + "]" * 60: "nested more than 50 levels deep",
    "9" * 5000: "4300 digits",
    '{"a": NaN}': "NaN is no JSON",
    '{"a": -Infinity}': "-Infinity is no JSON",
    '{"a": {"b": 1, "b": 1}}': "an object has 'b' twice",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items(), ids=range(len(BAD)))
def test_absurd_json_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [1, "a", None, {"a": [1.5, {"b": []}]}, [[]] * 100])
def test_other_json_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


def test_a_file_that_holds_no_object_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "latin.json").write_bytes('{"a": "ü"}'.encode("latin-1"))
    for name, reason in (("list", "no JSON object"), ("latin", "UTF-8")):
        with pytest.raises(ValueError, match=reason):
            read_object(tmp_path / f"{name}.json")
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none.json")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Of three trials, and a run of the confirmation."""
    made = StudyFolder(tmp_path / "out", "s")
    for number in range(3):
        made.write(record(number))
    made.write(record(1, phase=CONFIRMATION, config=configured({"seed": 7})))
    return made


def first(folder: StudyFolder) -> Path:
    return folder.path / "trials" / "00000.json"


def changed(**values: Any) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without(name: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        values = json.loads(path.read_text())
        del values[name]
        path.write_text(json.dumps(values))

    return change


STATES: dict[str, Callable[[Path], object]] = {
    "it is empty": lambda path: path.write_bytes(b""),
    "it is no JSON": lambda path: path.write_text(path.read_text()[:500]),
    "it is not UTF-8": lambda path: path.write_bytes(b'{"trial": "\xff"}'),
    "it holds no JSON object": lambda path: path.write_text("[]"),
    "a field 'name', which this version does not know": lambda path: path.write_text('{"name": 1}'),
    "a field 'later', which this version does not know": changed(later=1),
    "it has no field 'status'": without("status"),
    "its status cannot be 'running'": changed(status="running"),
    "its config cannot be 3": changed(config=3),
    "ipc: must be at least 1 and at most 100000, got 0": changed(config={"ipc": 0}),
    "evaluation.later: no such field": changed(config={"evaluation": {"later": 1}}),
    "its metrics are not all numbers": changed(metrics={"a": "b"}),
    "its stages do not all say": changed(stages=[{"name": "squeeze"}]),
    "it is the record of search 2": changed(trial=2),
    "it is the record of confirmation 0 seed 0": changed(phase=CONFIRMATION),
}


@pytest.mark.parametrize(("reason", "damage"), STATES.items(), ids=STATES)
def test_a_record_that_cannot_be_read_is_kept_aside_and_said(
    reason: str, damage: Callable[[Path], object], folder: StudyFolder
) -> None:
    path = first(folder)
    damage(path)
    bytes_of_it = path.read_bytes()
    assert [r.trial for r in folder.records()] == [1, 2] and folder.read(0) is None
    assert len(folder.confirmations()) == 1
    [line] = folder.left_out()
    assert line.startswith(f"{path} is left out: ") and reason in line and "\n" not in line
    [line] = folder.set_aside()
    aside = path.with_name("00000.json.unreadable")
    assert line.endswith("; it is kept as 00000.json.unreadable, and its trial is repeated")
    assert aside.read_bytes() == bytes_of_it and not path.exists()
    assert folder.left_out() == folder.set_aside() == []
    folder.write(record(0))
    assert [r.trial for r in folder.records()] == [0, 1, 2]


def test_a_confirmation_that_cannot_be_read_is_too(folder: StudyFolder) -> None:
    (folder.path / "confirmation" / "00001-7.json").write_bytes(b"")
    [line] = folder.set_aside()
    assert "00001-7.json is left out: it is empty; it is kept as" in line
    assert folder.confirmations() == []


def test_a_copy_is_left_out_and_left_alone(folder: StudyFolder) -> None:
    copy = first(folder).with_name("00000 (copy).json")
    copy.write_bytes(first(folder).read_bytes())
    for _ in range(2):
        assert folder.set_aside() == [f"{copy} is left out: no record has such a name"]
    assert copy.is_file() and len(folder.records()) == 3


def test_what_a_write_that_was_killed_left_is_no_record(folder: StudyFolder) -> None:
    first(folder).with_name(".00003.json-0123").write_text("{")
    assert len(folder.records()) == 3 and folder.left_out() == []


def test_a_record_of_an_older_version_has_the_defaults_of_what_there_was_not(
    folder: StudyFolder,
) -> None:
    values = json.loads(first(folder).read_text())
    del values["config"]["evaluation"]["norm"], values["config"]["compute"], values["stages"]
    first(folder).write_text(json.dumps(values))
    assert folder.read(0) == record(0)


def test_a_record_is_read_once_and_again_when_it_has_changed(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    monkeypatch.setattr(
        "tune.results.folder.read_object", lambda path: reads.append(path) or read_object(path)
    )
    for _ in range(2):
        assert len(folder.records()) == 3
    assert len(reads) == 3
    folder.write(record(1, 0.8))
    assert folder.records()[1] == record(1, 0.8) and len(reads) == 4


def test_records_share_the_sections_that_are_the_same(folder: StudyFolder) -> None:
    one, two, _ = folder.records()
    assert one.config["evaluation"] is two.config["evaluation"]


def artifact(folder: StudyFolder, key: str) -> str:
    path = folder.artifacts / "evaluate" / key
    path.mkdir(parents=True)
    return str(path)


def test_a_moved_output_is_read_where_it_is(folder: StudyFolder) -> None:
    own, elsewhere = artifact(folder, "abc"), str(folder.output.parent / "elsewhere")
    made = record(5, paths={"test verdicts": own, "student": elsewhere})
    folder.write(made)
    assert folder.read(5) == made
    written = json.loads((folder.path / "trials" / "00005.json").read_text())
    assert written["paths"] == {"test verdicts": "artifacts/evaluate/abc", "student": elsewhere}
    moved = StudyFolder(folder.output.rename(folder.output.with_name("moved")), "s")
    found = moved.read(5)
    assert found is not None and found.is_done
    assert found.paths == {
        "test verdicts": str(moved.artifacts / "evaluate" / "abc"),
        "student": elsewhere,
    }


def test_an_old_record_with_absolute_paths_is_read_where_it_is(folder: StudyFolder) -> None:
    artifact(folder, "abc")
    old = record(5, paths={"test verdicts": "/gone/runs/artifacts/evaluate/abc"})
    path = folder.path / "trials" / "00005.json"
    path.write_text(json.dumps(asdict(old)))
    found = folder.read(5)
    assert found is not None and found.is_done
    assert found.paths == {"test verdicts": str(folder.artifacts / "evaluate" / "abc")}
    assert not replace(old, paths={"test verdicts": "/gone"}).is_done
