"""Results that were changed, cut off or lost are not believed: they are computed again."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guard.artifacts import Artifact, ArtifactStore, Damaged, MissingInput, verified
from guard.config import ComputeConfig
from guard.pipeline import local_runner
from guard.stage import Stage

BYTES = bytes(range(256)) * 8


@dataclass(frozen=True, kw_only=True)
class Source(Stage):
    """Writes bytes."""

    name, version, work = "source", 1, "test_damage:write"
    number: int = 0
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@dataclass(frozen=True, kw_only=True)
class Reader(Stage):
    """Reads them."""

    name, version, work = "reader", 1, "test_damage:read"
    sources: tuple[Source, ...]
    compute: ComputeConfig = field(default_factory=ComputeConfig)


def write(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "deep").mkdir()
    (folder / "deep" / "bytes.bin").write_bytes(BYTES)
    (folder / "text.json").write_text("{}")
    return {"metrics": {"clean": 0.5376}}


def read(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    assert isinstance(stage, Reader)
    made = [store.read(source).path for source in stage.sources]
    assert all((path / "deep" / "bytes.bin").read_bytes() == BYTES for path in made)
    return {"metrics": {}}


SOURCE = Source()
READER = Reader(sources=(SOURCE,))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def flip(path: Path) -> None:
    """One bit, at a random place."""
    draws, content = random.Random(0), bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: list[Callable[[Path], None]] = [flip, half, empty, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["deep/bytes.bin", "text.json", "stage.json"])
def test_a_damaged_input_is_computed_again_and_kept_aside(
    store: ArtifactStore, name: str, damage: Callable[[Path], None]
) -> None:
    made = store.get_or_build(SOURCE).path
    before = (made / name).read_bytes()
    damage(made / name)
    after = (made / name).read_bytes() if (made / name).exists() else None
    with pytest.raises(Damaged, match=str(made)):
        verified(made)
    (found,) = local_runner(store)(READER)
    assert found.built and not found.replaced
    assert verified(made).summary == {"metrics": {"clean": 0.5376}}
    if name != "stage.json":
        assert (made / name).read_bytes() == before
    (aside,) = made.parent.glob(f".damaged-{made.name}-*/{made.name}")
    assert ((aside / name).read_bytes() if (aside / name).exists() else None) == after


def test_every_bit_of_a_record_counts(store: ArtifactStore) -> None:
    file = store.get_or_build(SOURCE).path / "stage.json"
    whole = file.read_bytes()
    for place, byte in enumerate(whole):
        if chr(byte).isdigit():
            changed = whole[:place] + b"%d" % ((byte - 47) % 10) + whole[place + 1 :]
            file.write_bytes(changed)
            same = json.loads(changed) == json.loads(whole)  # a decimal beyond a float's precision
            assert same or store.get(SOURCE) is None, whole[place - 10 : place + 10]
    file.write_bytes(whole)
    assert store.get(SOURCE) is not None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "{}", '{"stage": 3}', '{"stage": {}}', "\x80", "[" * 100_000],
)
def test_any_record_that_is_none_is_not_there(store: ArtifactStore, text: str) -> None:
    file = store.get_or_build(SOURCE).path / "stage.json"
    file.write_text(text, encoding="latin-1")
    assert store.get(SOURCE) is None
    made = store.get_or_build(SOURCE)
    assert made.built and "stage.json" in made.replaced
    assert store.get_or_build(SOURCE) == Artifact(
        path=made.path, summary=made.summary, seconds=made.seconds
    )


def test_a_result_under_another_key_is_not_believed(store: ArtifactStore) -> None:
    shutil.copytree(store.get_or_build(SOURCE).path, store.path(Source(number=1)))
    assert store.get(Source(number=1)) is None
    assert store.get_or_build(Source(number=1)).replaced == "stage.json is of another stage"


def test_results_without_sums_are_taken_as_they_are(store: ArtifactStore) -> None:
    file = store.get_or_build(SOURCE).path / "stage.json"
    record = json.loads(file.read_text())
    del record["files"], record["sha256"]
    file.write_text(json.dumps(record))
    assert verified(file.parent).summary == record["summary"]


def test_a_lost_input_is_computed_again(store: ArtifactStore) -> None:
    every = tuple(Source(number=number) for number in range(5))
    for source in every:
        shutil.rmtree(store.get_or_build(source).path)
    (made,) = local_runner(store)(Reader(sources=every))
    assert made.built
    assert all(store.get(source) is not None for source in every)


def test_a_disk_that_damages_everything_is_not_waited_for(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_or_build = ArtifactStore.get_or_build

    def damaging(self: ArtifactStore, stage: Stage) -> Artifact:
        made = get_or_build(self, stage)
        if isinstance(stage, Source):
            flip(made.path / "text.json")
        return made

    monkeypatch.setattr(ArtifactStore, "get_or_build", damaging)
    with pytest.raises(OSError, match="damaged as soon as they are written"):
        local_runner(store)(READER)


def test_a_file_is_read_once_a_process(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.get_or_build(SOURCE).path
    verified(path)
    monkeypatch.setattr("guard.sums.sha256", lambda path: pytest.fail(f"{path} was read again"))
    verified(path)


def test_all_damage_of_a_store_is_found(store: ArtifactStore) -> None:
    every = [store.get_or_build(Source(number=number)).path for number in range(4)]
    assert list(store.faults()) == []
    flip(every[1] / "deep" / "bytes.bin")
    (every[3] / "stage.json").unlink()
    assert sorted(Path(d.place) for d in store.faults()) == sorted([every[1], every[3]])


def test_what_was_put_aside_is_removed_after_a_week(store: ArtifactStore) -> None:
    path = store.get_or_build(SOURCE).path
    flip(path / "text.json")
    with pytest.raises(MissingInput):
        store.read(SOURCE)
    (aside,) = path.parent.iterdir()
    store.remove_abandoned()
    assert aside.exists()
    os.utime(aside, (0, 0))
    store.remove_abandoned()
    assert not aside.exists()


def test_a_lost_input_is_told_between_processes() -> None:
    sent: MissingInput = pickle.loads(pickle.dumps(MissingInput(SOURCE, "lost")))
    assert sent.stage == SOURCE and str(sent) == f"{SOURCE.address}: lost"
    told: Damaged = pickle.loads(pickle.dumps(Damaged(Path("x"), "lost")))
    assert str(told) == "x: lost; the command that made it computes it again"
