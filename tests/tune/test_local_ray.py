"""A local Ray: whom it hears, and what trials have of it."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune as ray_tune

from guard.artifacts import ArtifactStore
from guard.pipeline import local_runner, run_trial
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg, plan
from helpers import files
from tune.asking import RayRunner, ask_ahead, wait_for_desk
from tune.desk import open_desk
from tune.resources import COORDINATOR_CPUS, Resources, StageResources

pytestmark = pytest.mark.usefixtures("two_gpus")

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
