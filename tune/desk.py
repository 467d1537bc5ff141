"""Stages as Ray tasks, each computed once however many trials need it.

One named actor, the desk, maps a stage's address to the task that computes it. A trial asks the
desk and waits; waiting holds no CPU and no GPU. If the desk dies, Ray restarts it, and the worst
case is a stage computed twice: publishing is atomic.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray

from guard.artifacts import Artifact, MissingInput, attempts
from guard.remote import store_at
from guard.stage import Stage
from tune.causes import unwrapped
from tune.packing import Packing, is_out_of_memory
from tune.resources import StageResources
from tune.timeline import Span
from tune.usage import Usage, measured, reset_gpus

NAMESPACE = "robust-distillation-lab"
STAGE_SHARE = 0.99
"""Of the CPUs that a stage asks for, so that coordinators, which hold a thousandth each, take no
stage's place on a full machine."""

LIMIT_CHECK_S = 1.0
ANSWER_S = 2.0
MAX_RETRIES = 2
"""Of a stage whose process dies, by Ray itself."""


class StageLost(Exception):
    """A stage that gave no answer: its process died at every attempt, or took too long."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage, self.reason = stage, reason

    def __str__(self) -> str:
        return f"{self.stage.address}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class DeskStatus:
    """What the desk has done and is doing now."""

    running: Mapping[str, int]
    """Stage name -> how many are being computed."""
    waiting: int
    """Stages that wait for resources."""
    computed: int
    shared: int
    """Requests answered from the store, or by a computation that another trial had asked for."""
    saved_seconds: float
    """Computation that sharing made unnecessary."""
    lacking: str
    """What the largest stage that waits would need and no machine has; "" where one has it."""
    damaged: tuple[str, ...]
    """What was damaged and has been computed again: a stage's address, and what was wrong."""


@ray.remote(max_retries=MAX_RETRIES)
def compute(root: str, stage: Stage, desk_name: str) -> Artifact:
    """Compute one stage in a worker process, unless it has been published meanwhile."""
    worker = ray.get_runtime_context().get_worker_id()
    desk = ray.get_actor(desk_name, namespace=NAMESPACE)
    desk.started.remote(stage.address, worker)
    try:
        with measured() as usage:
            artifact = store_at(root).get_or_build(stage)
    finally:
        reset_gpus()  # this process lives on, and others want its GPU
    with contextlib.suppress(ray.exceptions.RayError):  # the desk is being restarted
        ray.get(desk.used.remote(stage.address, usage), timeout=ANSWER_S)
    return artifact


class Desk:
    """Gives each stage to one task and its result to everyone who asked."""

    def __init__(
        self, root: str, resources: StageResources, name: str, limit_s: float, task: Any
    ) -> None:
        """limit_s: seconds that a stage may be computed."""
        self._root, self._resources, self._name, self._task = root, resources, name, task
        self._limit_s = limit_s
        self._packing = Packing()
        self._store = store_at(root)
        self._tasks: dict[str, asyncio.Task[Artifact]] = {}
        self._started: dict[str, tuple[str, float]] = {}
        self._used: dict[str, Usage] = {}
        self._spans: list[Span] = []
        self._ahead: set[str] = set()
        """Addresses of what nobody has asked for yet."""
        self._damaged: list[str] = []
        self._computed = self._shared = 0
        self._saved_seconds = 0.0

    async def run(self, stage: Stage) -> Artifact:
        """The stage's artifact. Raises what its computation raised."""
        found = self._store.get(stage)
        if found is None:
            task = self._tasks.get(stage.address)
            if task is None:
                return await self._compute(stage)
            found = await asyncio.shield(task)
        if stage.address in self._ahead:
            self._ahead.remove(stage.address)
            return replace(found, built=True)
        self._shared += 1
        self._saved_seconds += found.seconds
        return replace(found, built=False)

    async def ahead(self, stage: Stage) -> None:
        """Compute a stage before it is asked for: whoever asks first has had it computed. What goes
        wrong is raised to those who ask, who have it tried again."""
        if self._store.get(stage) is None and stage.address not in self._tasks:
            self._ahead.add(stage.address)
            try:
                await self._compute(stage)
            except Exception:
                self._ahead.discard(stage.address)

    async def _compute(self, stage: Stage) -> Artifact:
        task = asyncio.ensure_future(self._submit(stage))
        self._tasks[stage.address] = task
        try:
            artifact = await asyncio.shield(task)
        finally:
            del self._tasks[stage.address]
            worker, start = self._started.pop(stage.address, ("", 0.0))
            usage = self._used.pop(stage.address, Usage())
            if self._packs(stage):
                self._packing.saw(stage, usage.gpu_share)
        if worker:
            made = Span(
                stage=stage.name, key=stage.key, worker=worker, start=start, end=time.time()
            )
            self._spans.append(replace(made, **asdict(usage)))
        self._computed += 1
        if artifact.replaced:
            self._damaged.append(f"{stage.address}: {artifact.replaced}")
        return artifact

    async def _submit(self, stage: Stage) -> Artifact:
        """Have a worker compute the stage; inputs that it finds damaged are computed first."""
        for _ in range(attempts(stage)):
            try:
                return await self._send(stage)
            except MissingInput as error:
                missing = unwrapped(error)
                assert isinstance(missing, MissingInput)
                self._damaged.append(str(missing))
                await self.run(missing.stage)
        raise OSError(f"{stage.address}: its inputs are damaged as soon as they are written")

    def _packs(self, stage: Stage) -> bool:
        """Whether the stage shares a GPU by what it takes."""
        return self._resources.packs and stage.name not in self._resources.named

    def _gpus(self, stage: Stage) -> float:
        """What the stage holds of a GPU, or how many it holds."""
        wanted = self._resources.of(stage.name).gpus
        return min(wanted, self._packing.of(stage)) if self._packs(stage) else wanted

    async def _send(self, stage: Stage) -> Artifact:
        while True:
            try:
                return await self._try(stage)
            except Exception as error:
                is_short = self._packs(stage) and is_out_of_memory(unwrapped(error))
                if not is_short or not self._packing.ran_out(stage):
                    raise

    async def _try(self, stage: Stage) -> Artifact:
        self._started.pop(stage.address, None)  # of an attempt before
        options = {
            "num_cpus": self._resources.of(stage.name).cpus * STAGE_SHARE,
            "num_gpus": self._gpus(stage),
            "scheduling_strategy": "DEFAULT",
            "name": f"stage:{stage.name}",
        }
        reference = self._task.options(**options).remote(self._root, stage, self._name)
        try:
            return await self._answer(stage, reference)
        except ray.exceptions.OutOfMemoryError:
            raise StageLost(stage, "it was ended each time because memory ran out") from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
            attempts = f"its process died at each of {MAX_RETRIES + 1} attempts"
            raise StageLost(stage, f"{attempts}, killed or by a fault of its own") from None

    async def _answer(self, stage: Stage, reference: Any) -> Artifact:
        """What the task gives. Raises StageLost when it has been computing for too long."""
        answer = asyncio.ensure_future(asyncio.wrap_future(reference.future()))
        while not (await asyncio.wait([answer], timeout=LIMIT_CHECK_S))[0]:
            _, start = self._started.get(stage.address, ("", math.inf))
            if time.time() - start > self._limit_s:
                ray.cancel(reference, force=True)
                answer.cancel()
                raise StageLost(stage, f"it took longer than {self._limit_s:g} s and was ended")
        artifact: Artifact = answer.result()
        return artifact

    def started(self, address: str, worker: str) -> None:
        """Called by a task when it starts."""
        if address in self._tasks:
            self._started[address] = (worker, time.time())

    def used(self, address: str, usage: Usage) -> None:
        """Called by a task before it ends."""
        if address in self._tasks:
            self._used[address] = usage

    def take_spans(self) -> list[Span]:
        """What has been computed since this was asked last."""
        taken, self._spans = self._spans, []
        return taken

    def _lacking(self) -> str:
        names = {address.split("/")[0] for address in self._tasks.keys() - self._started.keys()}
        return self._resources.lacking(names, totals())

    def status(self) -> DeskStatus:
        running = Counter(address.split("/")[0] for address in self._started)
        waiting = len(self._tasks) - len(self._started)
        return DeskStatus(
            running=running,
            waiting=waiting,
            computed=self._computed,
            shared=self._shared,
            saved_seconds=self._saved_seconds,
            lacking=self._lacking() if waiting else "",
            damaged=tuple(self._damaged),
        )


def totals() -> list[tuple[float, float]]:
    """CPUs and GPUs of each machine of the running cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive]


def open_desk(
    name: str,
    artifacts: Path | str,
    resources: StageResources,
    limit_s: float = math.inf,
    task: Any = compute,
) -> Any:
    """The handle of a new desk actor, which lives as long as the handle does.

    limit_s: seconds that a stage may be computed. task: the remote function that computes one.
    """
    options = {"name": name, "namespace": NAMESPACE, "num_cpus": 0}
    actor = ray.remote(max_restarts=-1, max_task_retries=-1)(Desk)
    return actor.options(**options).remote(str(artifacts), resources, name, limit_s, task)
