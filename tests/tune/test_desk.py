"""Stages that are asked for at a desk: computed once, shared, lost, ended or computed again."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

from guard.artifacts import Artifact, ArtifactStore
from guard.config import ComputeConfig
from guard.errors import StudyError
from guard.stage import Stage
from tune.asking import RayRunner, wait_for_desk
from tune.desk import NAMESPACE, StageLost, open_desk
from tune.resources import Resources, StageResources

pytestmark = pytest.mark.usefixtures("two_gpus")

HALF_GPU = StageResources(Resources(1, 0.5))
LIMIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Pause(Stage):
    """Waits for a file."""

    name, version, work = "pause", 1, "nowhere:nothing"
    number: int
    until: str
    after: Pause | None = None
    at_most_s: float = 30.0
    ends: str = "well"
    """well, in an error, or killed."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)


@ray.remote
def record_placement(root: str, stage: Stage, desk_name: str) -> Artifact:
    """A stand-in for a stage's computation that writes where and when it ran."""

    def build(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        ray.get(
            ray.get_actor(desk_name, namespace=NAMESPACE).started.remote(stage.address, "worker")
        )
        start = time.time()
        assert isinstance(stage, Pause)
        if stage.after is not None:
            store.read(stage.after)
        (folder / "placed.txt").write_text("placed")
        deadline = start + stage.at_most_s
        while time.time() < deadline and not Path(stage.until).exists():
            time.sleep(0.02)
        if stage.ends == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if stage.ends == "in an error":
            raise ValueError("no such luck")
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return {"devices": devices, "start": start, "end": time.time()}

    return ArtifactStore(Path(root)).get_or_build(stage, build)


def stages(folder: Path, count: int, **settings: Any) -> list[Stage]:
    until = str(folder / "go")
    return [Pause(number=number, until=until, **settings) for number in range(count)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """The desk's; a test's stages are its own."""
    return ArtifactStore(tmp_path_factory.mktemp("desk") / "artifacts")


@pytest.fixture(scope="module")
def desk(store: ArtifactStore) -> Iterator[tuple[Any, str]]:
    name = f"desk:{uuid.uuid4()}"
    actor = open_desk(name, store.root, HALF_GPU, LIMIT_S, record_placement)
    wait_for_desk(actor, 60)
    yield actor, name
    ray.kill(actor)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_stages_at_half_a_gpu_run_four_at_a_time_on_all_devices(
    desk: tuple[Any, str], tmp_path: Path
) -> None:
    actor, name = desk
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(RayRunner(name), *stages(tmp_path, 6))
        wait_until(lambda: sum(ray.get(actor.status.remote()).running.values()) == 4)
        assert ray.get(actor.status.remote()).waiting == 2
        (tmp_path / "go").touch()
        artifacts = future.result()
    first = sorted(artifacts, key=lambda artifact: artifact.summary["start"])[:4]
    devices = sorted(artifact.summary["devices"] for artifact in first)
    assert devices == ["0", "0", "1", "1"]
    assert max(a.summary["start"] for a in first) < min(a.summary["end"] for a in artifacts)


def test_a_stage_that_two_trials_want_is_computed_once(
    desk: tuple[Any, str], tmp_path: Path
) -> None:
    actor, name = desk
    (stage,) = stages(tmp_path, 1)
    before = ray.get(actor.status.remote())
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(RayRunner(name), stage) for _ in range(2)]
        wait_until(lambda: sum(ray.get(actor.status.remote()).running.values()) == 1)
        (tmp_path / "go").touch()
        results = [future.result()[0] for future in futures]
    assert sorted(artifact.built for artifact in results) == [False, True]
    assert results[0].summary == results[1].summary
    (again,) = RayRunner(name)(stage)
    assert not again.built
    status = ray.get(actor.status.remote())
    assert status.computed - before.computed == 1 and status.shared - before.shared == 2
    assert status.waiting == 0


def test_a_stage_computed_ahead_is_the_first_askers(desk: tuple[Any, str], tmp_path: Path) -> None:
    actor, name = desk
    (tmp_path / "go").touch()
    (stage,) = stages(tmp_path, 1)
    before = ray.get(actor.status.remote())
    ray.get([actor.ahead.remote(stage), actor.ahead.remote(stage)])
    asked = [RayRunner(name)(stage)[0].built for _ in range(2)]
    ray.get(actor.ahead.remote(stage))  # it is there
    asked += [RayRunner(name)(stage)[0].built]
    assert asked == [True, False, False]
    status = ray.get(actor.status.remote())
    assert status.computed - before.computed == 1 and status.shared - before.shared == 2


def test_a_stage_that_fails_ahead_fails_whoever_asks(desk: tuple[Any, str], tmp_path: Path) -> None:
    actor, name = desk
    (stage,) = stages(tmp_path, 1, ends="in an error", at_most_s=0.0)
    ray.get(actor.ahead.remote(stage))
    with pytest.raises(ValueError, match="no such luck"):
        RayRunner(name)(stage)


def test_a_stage_that_raises_fails_everyone_who_asked_and_can_be_asked_again(
    desk: tuple[Any, str], store: ArtifactStore, tmp_path: Path
) -> None:
    actor, name = desk
    (tmp_path / "go").touch()
    (stage,) = stages(tmp_path, 1, ends="in an error")
    for _ in range(2):
        with pytest.raises(ValueError, match="no such luck"):
            RayRunner(name)(stage)
    assert not ray.get(actor.status.remote()).running
    assert not list(store.root.glob(f"*/*{stage.key}*"))


@pytest.mark.slow
def test_a_stage_whose_process_dies_each_time_is_named(
    desk: tuple[Any, str], tmp_path: Path
) -> None:
    actor, name = desk
    (tmp_path / "go").touch()
    (stage,) = stages(tmp_path, 1, ends="killed")
    with pytest.raises(StageLost, match=rf"{stage.address}: its process died at each of 3 attem"):
        RayRunner(name)(stage)
    assert not ray.get(actor.status.remote()).running


@pytest.mark.slow
def test_a_stage_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    name = f"desk:{uuid.uuid4()}"
    actor = open_desk(name, tmp_path / "artifacts", HALF_GPU, 2.0, record_placement)
    (stage,) = stages(tmp_path, 1)
    with pytest.raises(StageLost, match=f"{stage.address}: it took longer than 2 s and was ended"):
        RayRunner(name)(stage)
    (tmp_path / "go").touch()
    (built,) = RayRunner(name)(stage)
    assert built.built
    ray.kill(actor)


def test_what_a_stage_lacks_is_told(tmp_path: Path) -> None:
    name = f"desk:{uuid.uuid4()}"
    wanting = StageResources(Resources(1, 0), {"pause": Resources(2, 3)})
    actor = open_desk(name, tmp_path / "artifacts", wanting, LIMIT_S, record_placement)
    assert ray.get(actor.status.remote()).lacking == ""
    awaited = actor.run.remote(*stages(tmp_path, 1))
    wait_until(lambda: ray.get(actor.status.remote()).lacking != "")
    told = ray.get(actor.status.remote()).lacking
    assert told == "pause waits for 2 CPUs and 3 GPUs of one node"
    ray.cancel(awaited)
    ray.kill(actor)


def test_an_input_that_a_worker_finds_damaged_is_computed_again(
    desk: tuple[Any, str], tmp_path: Path
) -> None:
    actor, name = desk
    (tmp_path / "go").touch()
    (first,) = stages(tmp_path, 1)
    (made,) = RayRunner(name)(first)
    size = (made.path / "placed.txt").stat().st_size
    (made.path / "placed.txt").write_text("x" * size)
    (read,) = RayRunner(name)(Pause(number=2, until=str(tmp_path / "go"), after=first))
    assert read.built
    assert (made.path / "placed.txt").read_text() == "placed"
    told = f"{first.address}: placed.txt has other bytes than were written"
    assert told in ray.get(actor.status.remote()).damaged


def test_whoever_waits_for_a_stage_can_be_stopped(desk: tuple[Any, str], tmp_path: Path) -> None:
    actor, name = desk
    (stage,) = stages(tmp_path, 1)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(RayRunner(name, stop), stage)
        wait_until(lambda: sum(ray.get(actor.status.remote()).running.values()) == 1)
        stop.set()
        with pytest.raises(StudyError, match="stopped"):
            future.result(timeout=20)
    with pytest.raises(StudyError, match="stopped"):
        RayRunner(name, stop)(stage)
    (tmp_path / "go").touch()


@pytest.mark.slow
def test_a_desk_that_dies_comes_back(desk: tuple[Any, str], tmp_path: Path) -> None:
    actor, name = desk
    (tmp_path / "go").touch()
    first, second = stages(tmp_path, 2)
    RayRunner(name)(first)
    ray.kill(actor, no_restart=False)
    found, built = RayRunner(name)(first, second)
    assert (found.built, built.built) == (False, True)


def test_resources_that_no_node_has_are_refused() -> None:
    HALF_GPU.check([(1, 0), (1, 1)])
    with pytest.raises(StudyError, match=r"1 CPUs and 0\.5 GPUs; there are nodes with 8 CPUs"):
        HALF_GPU.check([(8, 0)])
