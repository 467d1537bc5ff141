"""Stages that do nothing. A module of its own: what Ray sends to workers by value, as it does with
what is in `__main__`, is another function each time, for which it starts another worker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from guard.artifacts import Artifact, ArtifactStore
from guard.remote import store_at
from guard.robustness.measures import CLEAN, ROBUST
from guard.stage import Stage

FIRST, WARM_UP_S = ".first", 10.0
"""The first stages take so long. Ray Tune starts a process for each of the first trials; if those
are over before it is up, it is ended and another one started, again and again."""
METRICS = {CLEAN.metric: 0.9, ROBUST.metric: 0.4}


@ray.remote
def stand_in(root: str, stage: Stage, desk_name: str) -> Artifact:
    """In the place of `tune.desk.compute`: the stage's artifact holds nothing but metrics."""
    store = store_at(root)
    first = store.root / FIRST
    if not first.exists():
        store.root.mkdir(parents=True, exist_ok=True)
        first.touch()
    time.sleep(max(first.stat().st_mtime + WARM_UP_S - time.time(), 0))
    return store.get_or_build(stage, nothing)


def nothing(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    return {"metrics": METRICS}
