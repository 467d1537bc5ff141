"""A study at work on a running Ray: its desk, its tracking, its progress."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from guard.trial import TrialConfig
from guard.trial_stages import Leg
from studies.design.about import About
from studies.design.study import Story
from studies.driver.place import Place
from studies.driver.request import Request
from studies.driver.tracking import opened_store
from studies.reporting.console import Terminal
from studies.reporting.delivery import deliver
from studies.reporting.progress import Progress
from tune import cluster, preflight
from tune.asking import RayRunner, Timeline, ask_ahead
from tune.desk import open_desk, totals
from tune.results.findings import Results
from tune.results.folder import StudyFolder
from tune.results.records import Record
from tune.runs import Run, run_all
from tune.tracking.store import Store
from tune.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class Session:
    """What works for a study while Ray is up."""

    folder: StudyFolder
    place: Place
    desk_name: str
    desk: Any
    tracker: Tracker
    timeline: Timeline
    progress: Progress

    @property
    def stages_at_a_time(self) -> int:
        return cluster.num_slots(self.place.resources)

    @property
    def slots(self) -> int:
        """Trials at a time."""
        return self.place.run.concurrent or self.stages_at_a_time + 1

    @contextlib.contextmanager
    def at(self, folder: StudyFolder) -> Iterator[Callable[[threading.Event], RayRunner]]:
        """Another folder's stages on the same Ray, for as long as this lasts."""
        name = f"desk:{folder.path}"
        desk = open_desk(
            name, folder.store_place, self.place.resources, self.place.run.stage_limit_s
        )
        yield lambda stop: RayRunner(name, stop)
        del desk

    def say(self, line: str) -> None:
        self.progress.say(line)

    def run_stage(self, stop: threading.Event | None = None) -> RayRunner:
        return RayRunner(self.desk_name, stop)

    def run(self, runs: Sequence[Run]) -> None:
        """Do the runs. A KeyboardInterrupt ends it; what is done is kept."""

        def settle(record: Record) -> None:
            self.tracker.finish(record)
            self.timeline.update()
            self.progress.finished(record)

        def tick() -> None:
            with contextlib.suppress(ray.exceptions.RayError):  # busy: the next tick will do
                self.progress.tick(ray.get(self.desk.status.remote(), timeout=2))

        run_all(self.folder, runs, self.run_stage, self.slots, settle, tick)


@contextlib.contextmanager
def opened(
    console: Terminal,
    request: Request,
    place: Place,
    about: About,
    base: TrialConfig,
    queued: Iterable[tuple[TrialConfig, Leg]],
    store: Store | None,
) -> Iterator[Session]:
    """Ray started or joined, its machines checked, and a session on it. The caller closes the
    tracker.

    queued: legs of the trials that come first; what they begin with is computed while everything
    else gets ready: loading MLflow and Tune, and making a database, take seconds. store: where the
    study is tracked; None: in its output's own database, which is made meanwhile. Raises StudyError
    for machines that cannot compute the study's trials, and for a database that cannot be made.
    """
    folder = request.folder
    console.print("starting Ray …")
    with cluster.started(place.address, verbose=place.run.verbose):
        if place.address is None:
            place.resources.check(totals())
        else:
            console.print("asking the cluster's machines for versions, device, data, output …")
            preflight.check(folder, base.data, base.compute.device)
        name = f"desk:{folder.path}"
        desk = open_desk(name, folder.store_place, place.resources, place.run.stage_limit_s)
        ask_ahead(desk, queued, folder.store, cluster.num_slots(place.resources))
        store = store or opened_store(console, request)
        tracker = Tracker(folder, store, about.note(folder), about.module, about.max_clean_drop)
        tracker.start()
        with Progress(console) as progress:
            yield Session(
                folder=folder,
                place=place,
                desk_name=name,
                desk=desk,
                tracker=tracker,
                timeline=Timeline(desk, folder.path),
                progress=progress,
            )


def close(
    console: Terminal, session: Session, story: Story, results: Results, *, done: bool
) -> bool:
    """Finish the tracking of a study; whether everything is delivered."""
    session.timeline.update()
    return deliver(console, session.tracker, story, results, done=done)
