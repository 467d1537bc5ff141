"""A stage that is killed again and again ends in the bytes of one that was left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_damage import DAMAGES

from guard import checkpoint
from guard.artifacts import ArtifactStore, build
from guard.checkpoint import NOWHERE, Checkpoint, Draws, Images
from guard.pipeline import local_runner
from guard.seeding import generator
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import plan


class Killed(BaseException):
    """What no stage catches."""


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "state", every_s=0)


def test_a_state_comes_back(kept: Checkpoint) -> None:
    draws, images = generator(0), torch.zeros(2, 3)
    assert kept.restore({"draws": Draws(draws)}) is None
    expected = torch.randn(4, generator=draws)
    again = generator(0)
    kept.offer({"draws": Draws(again), "images": Images(images + 5)}, [{"epoch": 3}])
    torch.randn(7, generator=again)
    assert kept.restore({"draws": Draws(again), "images": Images(images)}) == [{"epoch": 3}]
    assert torch.equal(torch.randn(4, generator=again), expected)
    assert torch.equal(images, torch.full((2, 3), 5.0))


def test_only_the_last_state_is_kept(kept: Checkpoint, tmp_path: Path) -> None:
    for number in range(5):
        kept.save({}, number)
    assert kept.restore({}) == 4
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_parts_have_states_of_their_own(kept: Checkpoint) -> None:
    kept.at("a").save({}, 1)
    kept.at("b").save({}, 2)
    assert (kept.at("a").restore({}), kept.at("b").restore({}), kept.restore({})) == (1, 2, None)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_ignored(
    kept: Checkpoint, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    kept.save({"images": Images(torch.ones(100))}, 1)
    (file,) = (tmp_path / "state").iterdir()
    damage(file)
    images = torch.zeros(100)
    assert kept.restore({"images": Images(images)}) is None
    assert not images.any()


class Full:
    """A device that has no room for a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_part_that_does_not_take_its_state_fails_the_stage(kept: Checkpoint) -> None:
    """It must not go on from the beginning with networks that are trained."""
    images = Images(torch.ones(3))
    kept.save({"images": images, "optimizer": Full()}, 1)
    with pytest.raises(torch.OutOfMemoryError):
        kept.restore({"images": images, "optimizer": Full()})


def test_a_state_without_a_part_changes_nothing(kept: Checkpoint) -> None:
    kept.save({"images": Images(torch.ones(3))}, 1)
    images = torch.zeros(3)
    assert kept.restore({"images": Images(images), "draws": Draws(generator(0))}) is None
    assert not images.any()


def test_two_processes_may_write_one_file(kept: Checkpoint) -> None:
    def write(path: Path) -> None:
        path.write_text("1")
        other = kept.file("logits", lambda path: path.write_text("1") and None)
        assert other.is_file()

    assert kept.file("logits", write).read_text() == "1"


def test_states_are_far_apart_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = Checkpoint(tmp_path, every_s=60)
    for seconds, last in ((59, None), (61, 61), (120, 61), (122, 122)):
        now[0] = seconds
        kept.offer({}, now[0])
        assert kept.restore({}) == last


def test_nothing_is_kept_nowhere() -> None:
    NOWHERE.save({}, 1)
    assert NOWHERE.at("part").restore({}) is None


def test_a_full_disk_costs_the_checkpoint_alone(
    kept: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    kept.save({}, 1)
    monkeypatch.setattr(torch, "save", full)
    kept.save({}, 2)
    assert kept.restore({}) == 1


def test_a_finished_file_is_written_once(kept: Checkpoint, tmp_path: Path) -> None:
    calls = []

    def write(path: Path) -> None:
        calls.append(path)
        path.write_text("done")

    first, second = kept.file("x.bin", write), kept.file("x.bin", write)
    assert first == second and len(calls) == 1
    first.write_text("gone")
    assert kept.file("x.bin", write).read_text() == "done" and len(calls) == 2


MATCHING = {
    "iterations": 3,
    "student_steps": 2,
    "expert_epochs": 1,
    "max_start": 1,
    "batch_size": 16,
}
TINY: dict[str, Any] = {
    "model": {"width": 6, "depth": 2},
    "ipc": 2,
    "regularizer.fraction": 0.25,
    "squeeze": {"epochs": 3, "optimizer": "adamw", "lr": 0.02, "augment": ["crop"]},
    "sre2l": {"iterations": 4, "chunk": 2, "jitter": 1, "crop": "image"},
    "dsa": {"iterations": 3, "inner_epochs": 1, "batch_size": 8},
    "mtt": MATCHING,
    "mtt.experts": {"count": 1, "ema": 0.9},
    "mtt.experts.train": {"epochs": 3, "lr": 0.1, "batch_size": 64, "momentum": 0.9},
    "student.train": {"epochs": 3, "batch_size": 8, "augment": ["crop"]},
    "student.mix": "cutmix",
    "evaluation": {"attacks": ["pgd2"], "max_samples": 40, "batch_size": 4, "eps": 0.05},
    "evaluation.diagnose": False,
}
CONVNET = {"model": {"name": "convnet", "width": 6, "depth": 2}}
TRIALS: dict[str, dict[str, Any]] = {
    "sre2l": {},
    "dsa": {"method": "dsa", **CONVNET},
    "mtt": {"method": "mtt", **CONVNET},
    "ls-pgd": {"method": "whole", "regularizer": {"kind": "trades", "ascent": "ls-pgd"}},
}
LONG = (
    "squeeze",
    "expert",
    "recover",
    "gradient-matching",
    "trajectory-matching",
    "relabel",
    "student",
    "evaluate",
)


def config_of(name: str) -> TrialConfig:
    return TrialConfig().override(TINY).override(TRIALS[name])


def contents(store: ArtifactStore, stage: Stage) -> dict[str, bytes]:
    folder = store.path(stage)
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "stage.json"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactStore]:
    store = ArtifactStore(tmp_path_factory.mktemp("undisturbed"))
    for name in TRIALS:
        local_runner(store)(*plan(config_of(name)))
    yield store


@pytest.mark.parametrize("name", TRIALS)
def test_a_killed_stage_goes_on(
    name: str, undisturbed: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each of its checkpoints."""
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    store, kills = ArtifactStore(tmp_path), dict.fromkeys(LONG, 0)
    save, file = Checkpoint.save, Checkpoint.file

    def save_and_die(self: Checkpoint, *arguments: Any) -> None:
        save(self, *arguments)
        raise Killed

    def write_and_die(self: Checkpoint, name: str, write: Callable[[Path], None]) -> Path:
        def once(path: Path) -> None:
            write(path)
            raise_after.append(path)

        raise_after: list[Path] = []
        made = file(self, name, once)
        if raise_after:
            raise Killed
        return made

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    monkeypatch.setattr(Checkpoint, "file", write_and_die)
    for stage in plan(config_of(name)):
        while True:
            try:
                made = store.get_or_build(stage, build)
                break
            except Killed:
                kills[stage.name] = kills.get(stage.name, 0) + 1
                assert kills[stage.name] < 100
        assert contents(store, stage) == contents(undisturbed, stage)
        known = undisturbed.get(stage)
        assert known is not None and made.summary == known.summary
        assert not store.scratch(stage).exists()
    expected = [kind for kind in LONG if any(s.name == kind for s in plan(config_of(name)))]
    if name in ("dsa", "mtt"):  # whose students may leave fewer images than a batch to attack
        expected.remove("evaluate")
    assert {kind for kind, count in kills.items() if count} >= set(expected)
