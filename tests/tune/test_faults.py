"""Trials that fail, on a real Ray: tried again, recorded, or the end of the search."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from optuna.distributions import CategoricalDistribution

from guard.artifacts import Artifact, ArtifactStore
from guard.errors import StudyError
from guard.robustness.measures import CLEAN, ROBUST
from guard.stage import Stage
from guard.trial import TrialConfig
from tune import search
from tune.callback import DIED, StudyCallback
from tune.desk import NAMESPACE, open_desk
from tune.planning import Plan, open_study
from tune.proposer import Proposer
from tune.resources import Resources, StageResources
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.results.standing import Standing
from tune.search import run_study, study_context
from tune.space import SearchSpace
from tune.trainable import StudyContext, coordinate

pytestmark = pytest.mark.slow

WELL, ONCE, ALWAYS, DIES, NEVER_LIVES, FULL = 1, 2, 3, 4, 5, 6
"""How a trial goes, by its images per class."""
METRICS = {CLEAN.metric: 0.9, ROBUST.metric: 0.4}


def first_time(folder: Path, what: str) -> bool:
    try:
        (folder / what).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@ray.remote
def pretend(root: str, stage: Stage, desk_name: str) -> Artifact:
    """A stand-in for a stage's computation."""

    def build(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        ipc = getattr(stage, "ipc", WELL)
        if ipc == ALWAYS or (ipc == ONCE and first_time(store.root, "once")):
            raise ValueError("no such thing\nas this")
        if ipc == FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "images"))
        return {"metrics": METRICS}

    return ArtifactStore(Path(root)).get_or_build(stage, build)


def mortal(sampled: Mapping[str, Any], context: StudyContext) -> None:
    """A coordinator that may die."""
    if sampled["ipc"] == NEVER_LIVES:
        os._exit(1)
    if sampled["ipc"] == DIES and first_time(context.folder.artifacts, "died"):
        os._exit(1)
    coordinate(sampled, context)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A local Ray whose workers find this file."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    paths = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), paths)))
    ray.init(
        address="local",
        num_cpus=2,
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
    )
    os.environ["PYTHONPATH"] = paths
    yield
    ray.shutdown()


class Ear:
    """A watcher that keeps what it hears."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.said: list[str] = []

    def finished(self, record: Record, best: Record | None) -> None:
        self.ended.append(record.trial)

    def tick(self, status: object) -> None: ...

    def say(self, line: str) -> None:
        self.said.append(line)


def searched(folder: StudyFolder, *ways: int, max_failures: int = 0) -> tuple[Ear, Standing]:
    """A grid search of trials that go in these ways, one after another; its controls go well.
    Raises StudyError."""
    base = TrialConfig().override({"evaluation.attacks": ["pgd1"], "evaluation.diagnose": False})
    space = SearchSpace(
        base.override({"regularizer": "none"}), {"ipc": CategoricalDistribution(ways)}
    )
    plan = Plan(folder=folder, space=space, num_trials=len(ways), sampler="grid")
    folder.artifacts.mkdir(parents=True)
    folder.path.mkdir()
    standing = Standing(folder, 0.03)
    study = open_study(plan, standing)
    name = f"desk:{folder.path}"
    desk = open_desk(name, folder.artifacts, StageResources(Resources(1, 0)), task=pretend)
    context, ear = study_context(plan, name), Ear()
    silent: Any = SimpleNamespace(
        stage=lambda *given: None, finish=lambda record: None, update=lambda: None
    )
    callback = StudyCallback(context, desk, silent, silent, ear, standing, max_failures)
    run_study(Proposer(study, space, standing, len(ways), 1.0), context, desk, 1, callback)
    return ear, standing


def test_a_trial_is_tried_twice_and_then_recorded_under_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "coordinate", mortal)
    folder = StudyFolder(tmp_path, "s")
    ear, standing = searched(folder, WELL, ONCE, ALWAYS, DIES, NEVER_LIVES)
    ended = {r.config["ipc"]: (r.status, r.reason) for r in folder.records()}
    assert ended == {
        WELL: ("complete", ""),
        ONCE: ("complete", ""),
        ALWAYS: ("failed", "ValueError: as this"),
        DIES: ("complete", ""),
        NEVER_LIVES: ("failed", DIED),
    }
    assert [r.trial for r in folder.records()] == [0, 1, 2, 3, 4] == sorted(ear.ended)
    assert standing.records == folder.records()
    again = [line.partition(" and is tried again: ") for line in ear.said]
    assert {line[0]: line[2] for line in again} == {
        "trial 1 failed": "ValueError: as this",
        "trial 2 failed": "ValueError: as this",
        "trial 3 failed": DIED,
        "trial 4 failed": DIED,
    }
    assert standing.num_done == 3 and (folder.path / "results.csv").is_file()


def test_a_full_disk_ends_the_search_in_one_line(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    with pytest.raises(StudyError) as caught:
        searched(folder, WELL, FULL, WELL + 10, WELL + 20)
    assert str(caught.value) == (
        f"{tmp_path} is full (No space left on device); what is done is kept: make room, and the "
        "same command goes on"
    )
    assert {r.status for r in folder.records()} == {"complete"}
    assert len(folder.records()) < 3


def test_a_search_that_only_fails_ends(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    ear, standing = searched(folder, WELL, ALWAYS, max_failures=1)
    assert ear.said[-1] == (
        "1 trials in a row have failed, so the search ends (search.max_failures = 1); the last: "
        "ValueError: as this"
    )
    assert standing.num_done == 1
