"""Results in an object store: every machine has what one has made, and nothing damaged is read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guard import remote
from guard.artifacts import ArtifactStore, Damaged, MissingInput
from guard.config import ComputeConfig
from guard.errors import StudyError
from guard.objects import Objects, check_uri, copy_of, is_uri
from guard.remote import RemoteStore, store_at
from guard.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Made(Stage):
    """Writes bytes."""

    name, version, work = "made", 1, "test_remote:write"
    number: int = 0
    compute: ComputeConfig = field(default_factory=ComputeConfig)


BYTES = bytes(range(256)) * 8


def write(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "deep").mkdir()
    (folder / "deep" / "bytes.bin").write_bytes(BYTES)
    (folder / "text.json").write_text("{}")
    return {"metrics": {"clean": 0.5}}


def refuse(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    raise AssertionError("it is there already")


STAGE = Made()


class Machines:
    """Machines with caches of their own, and the store that they share."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self._root, self._patch = root, patch
        self.uri = f"file://{root}/store"
        self.there = root / "store" / STAGE.address

    def __call__(self, name: str) -> ArtifactStore:
        self._patch.setenv("GUARD_CACHE", str(self._root / name))
        return store_at(self.uri)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


def test_what_one_machine_makes_another_reads(machines: Machines) -> None:
    first, second = machines("a"), machines("b")
    assert first.root != second.root and first.get(STAGE) is None
    made = first.get_or_build(STAGE, write)
    assert made.built and not made.replaced
    found = second.get(STAGE)
    assert found is not None and not found.built and not found.path.exists()
    assert (found.summary, found.seconds) == (made.summary, made.seconds)
    assert not second.get_or_build(STAGE, refuse).built
    read = second.read(STAGE)
    assert (read.path / "deep" / "bytes.bin").read_bytes() == BYTES
    assert read.path.is_relative_to(second.root)


def test_its_record_is_the_last_to_come(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    usual = Objects.upload

    def upload(self: Objects, source: Path, name: str) -> None:
        sent.append(name)
        usual(self, source, name)

    monkeypatch.setattr(Objects, "upload", upload)
    machines("a").get_or_build(STAGE, write)
    assert len(sent) == 3 and sent[-1] == f"{STAGE.address}/stage.json"


def flip(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


DAMAGES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda there: flip(there / "deep" / "bytes.bin"), "has other bytes than were"),
    "cut off": (lambda there: os.truncate(there / "text.json", 1), "text.json has 1 bytes of 2"),
    "lost": (lambda there: (there / "text.json").unlink(), "text.json cannot be read"),
}


@pytest.mark.parametrize(("damage", "fault"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_there_is_put_aside_and_made_again(
    damage: Callable[[Path], object], fault: str, machines: Machines
) -> None:
    machines("a").get_or_build(STAGE, write)
    damage(machines.there)
    store = machines("b")
    (found,) = store.faults()
    assert str(found.place) == f"{machines.uri}/{STAGE.address}"
    with pytest.raises(MissingInput, match=fault):
        store.read(STAGE)
    assert (machines.there / "stage.json.damaged").is_file() and store.get(STAGE) is None
    assert store.get_or_build(STAGE, write).built
    assert list(store.faults()) == []
    assert (machines("c").read(STAGE).path / "text.json").read_text() == "{}"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"stage": 3}'])
def test_a_record_that_is_none_is_made_again(text: str, machines: Machines) -> None:
    store = machines("a")
    store.get_or_build(STAGE, write)
    (machines.there / "stage.json").write_text(text)
    assert store.get(STAGE) is None
    made = store.get_or_build(STAGE, write)
    assert made.replaced == "stage.json is damaged"
    assert list(store.faults()) == []


def test_a_changed_number_is_not_believed(machines: Machines) -> None:
    store = machines("a")
    store.get_or_build(STAGE, write)
    file = machines.there / "stage.json"
    file.write_text(file.read_text().replace("0.5", "0.9"))
    assert store.get(STAGE) is None
    assert store.get_or_build(STAGE, write).replaced == "stage.json is not what was written"
    assert json.loads(file.read_text())["summary"]["metrics"] == {"clean": 0.5}


def test_a_copy_that_is_damaged_is_fetched_again(machines: Machines) -> None:
    store = machines("a")
    path = store.get_or_build(STAGE, write).path
    flip(path / "deep" / "bytes.bin")
    assert (store.read(STAGE).path / "deep" / "bytes.bin").read_bytes() == BYTES
    assert store.refused(path) is None


def test_what_was_lost_there_is_brought_again(machines: Machines) -> None:
    store = machines("a")
    store.get_or_build(STAGE, write)
    for name in Objects(machines.uri).files():
        Objects(machines.uri).remove(name)
    assert store.get(STAGE) is None
    assert not store.get_or_build(STAGE, refuse).built
    assert machines("b").read(STAGE).summary == {"metrics": {"clean": 0.5}}


def test_another_machine_goes_on_from_a_checkpoint(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BRING_EVERY_S", 0.05)
    dying, second = machines("a"), machines("b")

    def dies(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        scratch = store.scratch(stage)
        (scratch / "part").mkdir(parents=True)
        (scratch / "part" / "abc.pt").write_bytes(b"half")
        (scratch / "part" / "later.part").touch()
        kept = Path(machines.uri.removeprefix("file://")) / scratch.relative_to(store.root)
        deadline = time.monotonic() + 30
        while not (kept / "part" / "abc.pt").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        raise RuntimeError("the machine is gone")

    def goes_on(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        scratch = store.scratch(stage)
        assert [path.name for path in scratch.rglob("*") if path.is_file()] == ["abc.pt"]
        return write(stage, store, folder)

    with pytest.raises(RuntimeError):
        dying.get_or_build(STAGE, dies)
    assert second.get_or_build(STAGE, goes_on).built
    assert second.sizes().keys() == {STAGE.address}
    assert not second.scratch(STAGE).exists()


def test_sizes_and_removal(machines: Machines) -> None:
    store = machines("a")
    assert isinstance(store, RemoteStore) and store.sizes() == {}
    made = store.get_or_build(STAGE, write)
    (size,) = store.sizes().values()
    assert size.num_bytes > len(BYTES) and abs(time.time() - size.written) < 60
    assert list(store.folders()) == [made.path]
    under_way = machines.there.with_name(".checkpoint-0123")
    under_way.mkdir()
    (under_way / "state.pt").write_bytes(BYTES)
    assert store.sizes().keys() == {STAGE.address}
    store.discard(STAGE.address)
    assert store.sizes() == {} and not made.path.exists()


def test_a_store_that_is_away_is_an_os_error(machines: Machines) -> None:
    store = machines("a")
    machines.there.parent.mkdir(parents=True)
    machines.there.write_text("a file where a folder belongs")
    with pytest.raises((OSError, Damaged)):
        store.get_or_build(STAGE, write)


def test_places_of_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    own = copy_of("s3://bucket/runs")
    assert own == tmp_path / "robust-distillation-lab/s3/bucket/runs"
    assert copy_of("s3://bucket/runs/artifacts") == own / "artifacts"
    other = copy_of("s3://bucket/runs?endpoint_override=h:1")
    assert other != own and other.name == "runs"
    assert copy_of("gs://bucket/runs") != own
    assert Objects("s3://b/x?region=y").below("z").uri == "s3://b/x/z?region=y"
    monkeypatch.delenv("GUARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert not copy_of("s3://bucket/runs").is_relative_to("/proc")


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/a/b/", "gs://b/x", "file:///tmp/x"])
def test_a_prefix_is_taken(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert is_uri(uri)
    check_uri("--output", uri.replace("gs://", "file:///"))


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("s3://", "must be a prefix such as s3://bucket/runs"),
        ("s3://bucket//x", "must be a prefix such as"),
        ("s3://bucket/../x", "must be a prefix such as"),
        ("s3://key:secret@bucket/x", "keys belong in the environment"),
        ("s3://bucket/x?nonsense=1", "is no place of an object store"),
    ],
)
def test_a_bad_uri_is_one_line(uri: str, rule: str) -> None:
    with pytest.raises(StudyError) as caught:
        check_uri("--output", uri)
    assert str(caught.value).startswith("--output: ") and rule in str(caught.value)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("path", ["runs", "/a/s3:/b", "~/x", "s3:x", "https://h/x"])
def test_a_path_is_no_uri(path: str) -> None:
    assert not is_uri(path)
