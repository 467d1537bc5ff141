"""A stage of several processes, as a task of Ray's."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from guard.artifacts import ArtifactStore
from guard.stages import Squeeze
from guard.trial import TrialConfig
from tune.asking import RayRunner, wait_for_desk
from tune.desk import NAMESPACE, StageLost, open_desk
from tune.local import short_folder, start_local
from tune.resources import Resources, StageResources

pytestmark = pytest.mark.slow
TEACHER: dict[str, Any] = {
    "model": {"width": 6, "depth": 2},
    "regularizer": "none",
    "squeeze": {"epochs": 2, "optimizer": "adamw", "lr": 0.02, "processes": 2},
}
IN_TWO = StageResources(Resources(1, 0), {"squeeze": Resources(2, 0)})
SECONDS = 60.0


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    with short_folder() as folder:
        start_local(folder, {"namespace": NAMESPACE, "log_to_driver": False, "num_cpus": 2})
        yield
        ray.shutdown()


def squeeze(**settings: Any) -> Squeeze:
    return Squeeze.of(TrialConfig().override({**TEACHER, **settings}).shared)


def members() -> list[int]:
    """Processes that work together, on this machine."""
    import psutil  # which Ray brings

    found = psutil.process_iter(["cmdline"])
    return [own.pid for own in found if "guard.member" in (own.info["cmdline"] or [])]


def opened(root: Path, limit_s: float) -> tuple[Any, RayRunner]:
    """The desk lives as long as its handle."""
    name = f"desk-{uuid.uuid4().hex}"
    desk = open_desk(name, root, IN_TWO, limit_s)
    wait_for_desk(desk, SECONDS)
    return desk, RayRunner(name)


def test_a_worker_gives_what_a_process_without_ray_gives(tmp_path: Path) -> None:
    desk, run = opened(tmp_path / "ray", 10 * SECONDS)
    (made,) = run(squeeze())
    alone = ArtifactStore(tmp_path / "alone").get_or_build(squeeze())
    first, second = (folder / "model.safetensors" for folder in (made.path, alone.path))
    assert first.read_bytes() == second.read_bytes()
    del desk


def test_a_stage_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    before = set(members())
    desk, run = opened(tmp_path, 20.0)
    with pytest.raises(Exception) as caught:
        run(squeeze(**{"squeeze.epochs": 1_000_000}))
    assert isinstance(getattr(caught.value, "cause", caught.value), StageLost)
    deadline = time.monotonic() + SECONDS
    while set(members()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(members()) - before
    del desk
