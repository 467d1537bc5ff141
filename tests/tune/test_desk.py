from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune as ray_tune

from guard.artifacts import Artifact, ArtifactStore
from guard.config import ComputeConfig
from guard.errors import StudyError
from guard.pipeline import local_runner, run_trial
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg, plan
from helpers import files
from tune.asking import RayRunner, ask_ahead, wait_for_desk
from tune.desk import NAMESPACE, StageLost, open_desk
from tune.local import short_folder, start_local
from tune.resources import COORDINATOR_CPUS, Resources, StageResources

TRAJECTORIES = {
    "iterations": 1,
    "student_steps": 2,
    "expert_epochs": 1,
    "max_start": 2,
    "experts": {
        "count": 2,
        "train": {"epochs": 3, "batch_size": 64, "optimizer": "adamw", "lr": 0.02},
    },
}
TINY = {
    "model": {"name": "convnet", "norm": "batch", "width": 6, "depth": 2},
    "ipc": 1,
    "regularizer": "none",
    "squeeze": {"epochs": 1, "optimizer": "adamw", "lr": 0.02},
    "sre2l.iterations": 2,
    "cda.iterations": 2,
    "dc": {"iterations": 1, "batch_size": 4},
    "dsa": {"iterations": 1, "batch_size": 4},
    **{name: TRAJECTORIES for name in ("mtt", "tesla", "mat")},
    "student.train": {"epochs": 1, "optimizer": "adamw", "lr": 0.02},
    "evaluation": {"attacks": ["pgd1"], "max_samples": 10, "eps": 0.05},
}
HALF_GPU = StageResources(Resources(1, 0.5))
LIMIT_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    """A local Ray that believes in 4 CPUs and 2 GPUs."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    paths = os.environ.get("PYTHONPATH", "")
    here = str(Path(__file__).parent)  # where workers find this file's stage
    helpers = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, helpers, paths)))
    with short_folder() as folder:
        resources = {"num_cpus": 4, "num_gpus": 2}
        start_local(folder, {"namespace": NAMESPACE, "log_to_driver": False, **resources})
        os.environ["PYTHONPATH"] = paths
        yield
        ray.shutdown()


def test_a_local_ray_is_for_this_machine_alone() -> None:
    import psutil  # which Ray brings

    driver = psutil.Process()
    connections = [
        connection
        for process in (driver, *driver.children(recursive=True))
        for connection in process.net_connections("inet")
    ]
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening and listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_a_local_ray_hears_no_signal_of_the_terminals() -> None:
    """A terminal sends them to the group of processes in front of it."""
    import psutil

    children = psutil.Process().children(recursive=True)
    groups = {process.name(): os.getpgid(process.pid) for process in children}
    assert "raylet" in groups and os.getpgrp() not in groups.values()


def test_a_local_ray_keeps_its_workers() -> None:
    """Those that wait, too, or each stage loads PyTorch."""
    import psutil

    children = psutil.Process().children(recursive=True)
    (raylet,) = (process for process in children if process.name() == "raylet")
    assert int(raylet.environ()["RAY_num_workers_soft_limit"]) > 100


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


def test_every_worker_gets_a_stage_that_is_not_there_before_the_first_trial(
    tmp_path: Path,
) -> None:
    store = ArtifactStore(tmp_path)
    base = TrialConfig().override(TINY)
    shared = [base.override({"ipc": ipc}) for ipc in (1, 2)]  # of one teacher
    other, third = (base.override({"squeeze.lr": lr}) for lr in (0.3, 0.4))
    teachers = [plan(config)[0] for config in (base, other, third)]
    queued = [(config, WHOLE) for config in (*shared, other, third)]
    asked: list[Stage] = []
    desk = SimpleNamespace(ahead=SimpleNamespace(remote=asked.append))
    ask_ahead(desk, queued, store, 2)
    assert asked == teachers[:2]
    asked.clear()
    store.get_or_build(teachers[0], lambda stage, store, folder: {})
    ask_ahead(desk, iter(queued), store, 2)
    assert asked == teachers[1:]
    asked.clear()
    ask_ahead(desk, [(other.override({"squeeze.epochs": 9}), Leg(looks=1))], store, 2)
    assert [stage.name for stage in asked] == ["early-squeeze"]


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


def test_a_coordinator_holds_no_gpu_and_imports_no_torch(tmp_path: Path) -> None:
    def coordinate(config: dict[str, Any]) -> None:
        import sys

        import tune.trainable  # noqa: F401

        seen = {
            "gpus": ray.get_gpu_ids(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "torch": "torch" in sys.modules,
        }
        (tmp_path / "seen.json").write_text(json.dumps(seen))
        ray_tune.report({"done": 1})

    trainable = ray_tune.with_resources(coordinate, {"cpu": COORDINATOR_CPUS})
    config = ray_tune.RunConfig(storage_path=str(tmp_path), verbose=0)
    ray_tune.Tuner(trainable, run_config=config).fit()
    assert json.loads((tmp_path / "seen.json").read_text()) == {
        "gpus": [],
        "visible": "",
        "torch": False,
    }


def test_each_kind_of_method_writes_the_same_bytes_with_ray_and_without(tmp_path: Path) -> None:
    alone, together = (ArtifactStore(tmp_path / name) for name in ("alone", "together"))
    name = f"desk:{uuid.uuid4()}"
    actor = open_desk(name, together.root, StageResources(Resources(2, 0)))  # two at a time
    wait_for_desk(actor, 60)
    for method in ("cda", "dsa", "mat", "herding"):
        once = {"evaluation.diagnose": method == "cda"}
        config = TrialConfig().override({**TINY, "method": method, **once})
        run_trial(config, local_runner(alone))
        run_trial(config, RayRunner(name))
    spans = ray.get(actor.take_spans.remote())
    assert spans and all(span.memory_mib > 50 and span.cpu_percent > 0 for span in spans)
    ray.kill(actor)
    expected = files(alone.root)
    assert {address.split("/")[0] for address in expected} >= {"expert", "recover", "subset"}
    assert files(together.root) == expected


def test_resources_that_no_node_has_are_refused() -> None:
    HALF_GPU.check([(1, 0), (1, 1)])
    with pytest.raises(StudyError, match=r"1 CPUs and 0\.5 GPUs; there are nodes with 8 CPUs"):
        HALF_GPU.check([(8, 0)])
