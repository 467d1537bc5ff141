"""What is asked of a desk: a trial's stages, those that come first, and the timeline."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ray

from guard.artifacts import Artifact, ArtifactStore
from guard.errors import StudyError
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import Leg, first_stages
from tune.desk import ANSWER_S, NAMESPACE
from tune.timeline import FILE, append

STOP_CHECK_S = 0.5
LOOK_AHEAD = 32
"""Trials whose first stages are looked at before any of them runs."""


class RayRunner:
    """The `run_stage` of a trial on Ray: ask the desk for all the stages at once, and wait.

    Once `stop` is set it asks for nothing, waits no longer, and raises StudyError: a thread that
    still asks when Ray has been shut down takes the whole process with it.
    """

    def __init__(self, desk_name: str, stop: threading.Event | None = None) -> None:
        self._desk = ray.get_actor(desk_name, namespace=NAMESPACE)
        self._stop = stop or threading.Event()

    def __call__(self, *stages: Stage) -> Sequence[Artifact]:
        self._go_on()
        awaited = [self._desk.run.remote(stage) for stage in stages]
        while True:
            try:
                artifacts: list[Artifact] = ray.get(awaited, timeout=STOP_CHECK_S)
                return artifacts
            except ray.exceptions.GetTimeoutError:
                self._go_on()

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise StudyError("the study was stopped")


class Timeline:
    """Adds what the desk has seen since the last time to the timeline of a study's folder."""

    def __init__(self, desk: Any, folder: Path) -> None:
        self._desk, self._path = desk, folder / FILE
        self._asked: Any = None
        """A request that the desk, being busy, has not answered yet: its answer is given once."""

    def update(self) -> None:
        """Raises StudyError if the file cannot be written for half a minute."""
        try:
            self._asked = self._asked or self._desk.take_spans.remote()
            spans = ray.get(self._asked, timeout=ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            return
        except ray.exceptions.RayError:  # the desk has been restarted, and knows of none
            spans = []
        self._asked = None
        append(self._path, spans)


def ask_ahead(
    desk: Any, queued: Iterable[tuple[TrialConfig, Leg]], store: ArtifactStore, count: int
) -> None:
    """Have the first stages computed that legs of trials begin with and that are not there, `count`
    of them at most, and do not wait: whoever asks for one first gets it.

    Else a search's first trials, which all need the same teacher, would leave every worker but one
    idle until it is trained.
    """
    begun = first_stages(itertools.islice(queued, LOOK_AHEAD))
    missing = (stage for stage in begun if store.get(stage) is None)
    for stage in itertools.islice(missing, count):
        desk.ahead.remote(stage)


def wait_for_desk(desk: Any, timeout: float) -> None:
    """Block until the desk answers. Raises ray's GetTimeoutError after `timeout` seconds."""
    ray.get(desk.status.remote(), timeout=timeout)
