from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guard.artifacts import Artifact, ArtifactStore
from guard.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Model(Stage):
    """An input."""

    name, version, work = "model", 1, "nowhere:nothing"
    number: int


@dataclass(frozen=True, kw_only=True)
class Count(Stage):
    """What is kept here; each test says how it is built."""

    name, version, work = "count", 1, "nowhere:nothing"
    model: Model
    a: int


STAGE = Count(model=Model(number=0), a=1)


def write(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "result.txt").write_text("42")
    return {"metrics": {"n": 42}}


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_an_artifact_is_built_once(store: ArtifactStore) -> None:
    calls = []

    def build(stage: Stage, given: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        calls.append(stage)
        assert given is store and stage is STAGE
        assert folder.is_dir() and not list(folder.iterdir())
        assert not store.path(STAGE).exists()
        assert folder.parent == store.path(STAGE).parent
        return write(stage, given, folder)

    assert store.get(STAGE) is None
    first, second = store.get_or_build(STAGE, build), store.get_or_build(STAGE, build)
    assert len(calls) == 1
    assert (first.built, second.built) == (True, False)
    assert first == dataclasses.replace(second, built=True)
    assert first.summary == {"metrics": {"n": 42}}
    assert first.path == store.path(STAGE)
    assert (first.path / "result.txt").read_text() == "42"
    assert store.get(STAGE) == second


def test_an_artifact_tells_its_stage(store: ArtifactStore) -> None:
    artifact = store.get_or_build(STAGE, write)
    record = json.loads((artifact.path / "stage.json").read_text())
    assert record["stage"] == STAGE.description
    assert record["summary"] == artifact.summary
    assert record["seconds"] == artifact.seconds >= 0


def test_another_store_of_the_same_folder_finds_it(store: ArtifactStore) -> None:
    store.get_or_build(STAGE, write)
    found = ArtifactStore(store.root).get_or_build(STAGE, fail)
    assert not found.built
    assert found.summary == {"metrics": {"n": 42}}


def fail(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "half.txt").write_text("…")
    raise RuntimeError("no disk")


def interrupt(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "deep").mkdir()
    (folder / "deep" / "half.txt").write_text("…")
    raise KeyboardInterrupt


def not_plain(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    return {"metrics": {"loss": float("nan")}}


@pytest.mark.parametrize(
    ("build", "error"),
    [(fail, RuntimeError), (interrupt, KeyboardInterrupt), (not_plain, ValueError)],
)
def test_a_failing_build_leaves_nothing_behind(
    build: Any, error: type[BaseException], store: ArtifactStore
) -> None:
    with pytest.raises(error):
        store.get_or_build(STAGE, build)
    assert store.get(STAGE) is None
    assert list((store.root / "count").iterdir()) == []
    assert store.get_or_build(STAGE, write).built


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_in_the_way_is_put_aside(store: ArtifactStore, what: str) -> None:
    blocked = store.path(STAGE)
    blocked.parent.mkdir(parents=True)
    if what == "file":
        blocked.write_text("x")
    else:
        blocked.mkdir()
        (blocked / "something").write_text("x")
    assert store.get(STAGE) is None
    made = store.get_or_build(STAGE, write)
    assert made.built and "stage.json" in made.replaced
    assert store.get(STAGE) is not None
    assert len(list(blocked.parent.glob(f".damaged-{STAGE.key}-*/{STAGE.key}"))) == 1


def test_builds_at_the_same_time_end_with_one_artifact(store: ArtifactStore) -> None:
    barrier, numbers = threading.Barrier(4, timeout=20), iter(range(4))

    def build(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        number = next(numbers)
        (folder / f"{number}.txt").write_text(str(number))
        barrier.wait()
        return {"number": number}

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(store.get_or_build, STAGE, build) for _ in range(4)]
        artifacts: list[Artifact] = [job.result() for job in jobs]
    winner = artifacts[0].summary["number"]
    assert [artifact.summary for artifact in artifacts] == [{"number": winner}] * 4
    folder = store.path(STAGE)
    assert files(folder) == [f"{winner}.txt", "stage.json"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_process_that_finds_its_work_published_takes_it(store: ArtifactStore) -> None:
    """What both kept beside the result goes with the first that is done."""

    def slower(stage: Stage, where: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        where.get_or_build(stage, write)
        raise FileNotFoundError("logits.safetensors")

    made = store.get_or_build(STAGE, slower)
    assert made == store.get(STAGE) and not made.built


def test_stages_of_one_name_lie_beside_each_other(store: ArtifactStore) -> None:
    other = dataclasses.replace(STAGE, a=2)
    for stage in (STAGE, other):
        store.get_or_build(stage, write)
    assert {p.name for p in (store.root / "count").iterdir()} == {STAGE.key, other.key}


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o007, 0o770, 0o660)]
)
def test_an_artifact_has_the_rights_of_new_files(
    store: ArtifactStore, umask: int, folder: int, file: int
) -> None:
    def private(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        (folder / "deep").mkdir()
        for name in ("result.txt", "deep/result.txt"):
            (folder / name).touch(0o600)
        return {}

    before = os.umask(umask)
    try:
        artifact = store.get_or_build(STAGE, private)
    finally:
        os.umask(before)
    for path in (artifact.path, *artifact.path.rglob("*")):
        assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file)


def half_made(store: ArtifactStore, age_s: float) -> Path:
    folder = store.root / "count" / f".{STAGE.key}-{age_s:.0f}"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "half.txt").write_text("…")
    os.utime(folder, (time.time() - age_s,) * 2)
    return folder


def test_folders_of_killed_processes_are_removed_when_they_are_old(store: ArtifactStore) -> None:
    published = store.get_or_build(STAGE, write)
    os.utime(published.path, (0, 0))
    hour = 3600
    young, older, old = (half_made(store, age) for age in (0.5 * hour, 167 * hour, 169 * hour))
    store.remove_abandoned()
    assert [young.exists(), older.exists(), old.exists()] == [True, True, False]
    store.remove_abandoned(hour)
    assert [young.exists(), older.exists()] == [True, False]
    assert store.get(STAGE) == dataclasses.replace(published, built=False)


def test_an_empty_store_has_nothing_abandoned(store: ArtifactStore) -> None:
    store.remove_abandoned()
    assert not store.root.exists()


def test_a_relative_root_is_kept_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore(Path("runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.get_or_build(STAGE, write)
    assert (tmp_path / "runs" / STAGE.address / "result.txt").is_file()
