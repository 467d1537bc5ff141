"""Ray reads its settings from the environment when it is imported, so `tune` comes first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tune  # noqa: F401
from guard.pipeline import TrialResult
from guard.trial import TrialConfig
from tune import runs

Pretend = Callable[[Callable[[TrialConfig], TrialResult]], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Replace the work of a trial of `run_all`."""

    def use(result: Callable[[TrialConfig], TrialResult]) -> None:
        monkeypatch.setattr(runs, "run_trial", lambda config, run_stage, leg: result(config))

    return use


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """A local Ray that believes in 4 CPUs and 2 GPUs."""
    import ray

    from tune.desk import NAMESPACE
    from tune.local import short_folder, start_local

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    paths = os.environ.get("PYTHONPATH", "")
    here = str(Path(__file__).parent)  # where workers find a test's stage
    helpers = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, helpers, paths)))
    with short_folder() as folder:
        resources = {"num_cpus": 4, "num_gpus": 2}
        start_local(folder, {"namespace": NAMESPACE, "log_to_driver": False, **resources})
        os.environ["PYTHONPATH"] = paths
        yield
        ray.shutdown()
