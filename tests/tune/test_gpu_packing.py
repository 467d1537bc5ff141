"""Which share of a GPU a stage gets, and what the desk makes of it; no GPU is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guard.artifacts import Artifact, ArtifactStore
from guard.stage import Stage
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages, plan
from tune.desk import Desk
from tune.packing import ALONE, SMALLEST, Packing, is_out_of_memory, shape
from tune.resources import Resources, StageResources
from tune.usage import Usage

PACKED = StageResources(Resources(1, 1), packs=True)


def squeeze(**fields: Any) -> Stage:
    named = {path.replace("__", "."): value for path, value in fields.items()}
    return TrialStages.of(TrialConfig().override(named)).teachers[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 3},
        {"regularizer__weight": 0.7},
        {"regularizer__h": 0.7},
        {"squeeze__lr": 0.5, "squeeze__weight_decay": 0.1},
    ],
)
def test_what_takes_no_memory_makes_no_other_shape(fields: dict[str, Any]) -> None:
    assert squeeze(**fields).key != squeeze().key
    assert shape(squeeze(**fields)) == shape(squeeze())


@pytest.mark.parametrize(
    ("changes", "name", "count"),
    [
        ({"method": "mtt", "regularizer": "none", "mtt.experts.count": 4}, "expert", 4),
        ({"ipc": 6, "sre2l.chunk": 2}, "recover", 3),
    ],
)
def test_one_of_several_alike_is_measured_for_all(
    changes: dict[str, Any], name: str, count: int
) -> None:
    config = TrialConfig().override(changes)
    alike = [stage for stage in plan(config) if stage.name == name]
    assert len(alike) == count and len({shape(stage) for stage in alike}) == 1


def test_the_size_of_a_chunk_makes_another_shape() -> None:
    several = [plan(TrialConfig().override({"ipc": 6, "sre2l.chunk": chunk})) for chunk in (2, 3)]
    shapes = {shape(stage) for own in several for stage in own if stage.name == "recover"}
    assert len(shapes) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"squeeze__batch_size": 7},
        {"model__width": 7},
        {"regularizer__fraction": 0.125},
        {"regularizer__kind": "none", "regularizer__weight": 0},
        {"data__name": "cifar10"},
        {"compute__mode": "fast"},
    ],
)
def test_what_may_take_memory_makes_another_shape(fields: dict[str, Any]) -> None:
    assert shape(squeeze(**fields)) != shape(squeeze())


def test_a_stage_that_works_on_another_is_alike_where_both_are() -> None:
    def student(**fields: Any) -> Stage:
        named = {path.replace("__", "."): value for path, value in fields.items()}
        return TrialStages.of(TrialConfig().override(named)).student

    assert shape(student(seed=3, regularizer__h=0.7)) == shape(student())
    assert shape(student(model__width=7)) != shape(student()), "its teacher is another"


def test_the_first_of_a_shape_has_a_gpu_alone_and_the_next_what_it_took() -> None:
    packing = Packing()
    assert packing.of(squeeze()) == ALONE
    packing.saw(squeeze(), 0.0)
    assert packing.of(squeeze()) == ALONE, "nothing was measured"
    packing.saw(squeeze(), 0.21)
    assert packing.of(squeeze(seed=5)) == pytest.approx(0.3), "a fifth more, in twentieths"
    packing.saw(squeeze(seed=5), 0.05)
    assert packing.of(squeeze()) == pytest.approx(0.3), "the most of all that were seen"
    assert packing.of(squeeze(model__width=7)) == ALONE


@pytest.mark.parametrize(("taken", "share"), [(0.001, SMALLEST), (0.9, ALONE), (1.0, ALONE)])
def test_a_share_is_a_part_of_a_gpu(taken: float, share: float) -> None:
    packing = Packing()
    packing.saw(squeeze(), taken)
    assert packing.of(squeeze()) == share


def test_more_is_given_once() -> None:
    packing = Packing()
    assert not packing.ran_out(squeeze()), "it was alone"
    packing.saw(squeeze(), 0.25)
    assert packing.ran_out(squeeze()) and packing.of(squeeze(seed=1)) == pytest.approx(0.6)
    assert not packing.ran_out(squeeze())
    assert packing.ran_out(squeeze(seed=1)) and packing.of(squeeze()) == ALONE


def test_an_error_of_a_gpus_memory_is_told_from_others() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("full"))
    assert not is_out_of_memory(MemoryError()) and not is_out_of_memory(OSError())


@dataclass
class Task:
    """In the place of the remote function: notes what each stage is given, and computes it."""

    desk: Callable[[], Desk]
    takes: float
    """Of a GPU's memory."""
    fails_below: float = 0.0
    """With less of a GPU a stage has too little memory."""
    silent: bool = False
    """Whether a stage that ends well has not said that it starts."""
    given: list[float] = field(default_factory=list)

    def options(self, **options: Any) -> Any:
        self.given.append(options["num_gpus"])
        has = options["num_gpus"]

        def remote(root: str, stage: Stage, name: str) -> Any:
            answer: Future[Artifact] = Future()
            if not self.silent or has < self.fails_below:
                self.desk().started(stage.address, f"worker with {has:g}")
            if has < self.fails_below:
                error = ValueError("of Ray's")
                error.cause = torch.OutOfMemoryError("CUDA out of memory")  # type: ignore[attr-defined]
                answer.set_exception(error)
            else:
                self.desk().used(stage.address, Usage(gpu_share=self.takes))
                made = ArtifactStore(Path(root)).get_or_build(stage, lambda *of: {})
                answer.set_result(made)
            return SimpleNamespace(future=lambda: answer)

        return SimpleNamespace(remote=remote)


def desk_of(tmp_path: Path, resources: StageResources, **about: float) -> tuple[Desk, Task]:
    task = Task(desk=lambda: desk, **about)  # type: ignore[arg-type]
    desk = Desk(str(tmp_path), resources, "desk", 60.0, task)
    return desk, task


def test_the_desk_packs_what_is_like_what_it_has_measured(tmp_path: Path) -> None:
    desk, task = desk_of(tmp_path, PACKED, takes=0.2)
    for seed in range(3):
        asyncio.run(desk.run(squeeze(seed=seed)))
    assert task.given == [1, pytest.approx(0.25), pytest.approx(0.25)]
    assert [span.gpu_share for span in desk.take_spans()] == [0.2] * 3


def test_a_stage_that_finds_too_little_memory_gets_twice_as_much_once(tmp_path: Path) -> None:
    desk, task = desk_of(tmp_path, PACKED, takes=0.2)
    asyncio.run(desk.run(squeeze(seed=0)))
    task.fails_below = 0.4
    asyncio.run(desk.run(squeeze(seed=1)))
    task.fails_below = 2.0
    with pytest.raises(ValueError, match="of Ray's"):
        asyncio.run(desk.run(squeeze(seed=2)))
    assert task.given == [1, *(pytest.approx(share) for share in (0.25, 0.5, 0.5, 1.0))]


def test_an_attempt_that_failed_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    desk, task = desk_of(tmp_path, PACKED, takes=0.2)
    asyncio.run(desk.run(squeeze(seed=0)))
    assert [span.worker for span in desk.take_spans()] == ["worker with 1"]
    task.fails_below, task.silent = 0.4, True
    asyncio.run(desk.run(squeeze(seed=1)))
    assert desk.take_spans() == [], "that one never said that it started"


def test_what_is_named_is_not_packed(tmp_path: Path) -> None:
    named = StageResources(Resources(1, 1), {"squeeze": Resources(1, 0.5)}, packs=True)
    desk, task = desk_of(tmp_path, named, takes=0.1)
    for seed in range(2):
        asyncio.run(desk.run(squeeze(seed=seed)))
    assert task.given == [0.5, 0.5]
    task.fails_below = 2.0
    with pytest.raises(ValueError, match="of Ray's"):
        asyncio.run(desk.run(squeeze(seed=9)))
    assert task.given == [0.5] * 3, "more of a GPU is not to be had, so it is not tried again"


def test_without_packing_memory_changes_nothing(tmp_path: Path) -> None:
    desk, task = desk_of(tmp_path, StageResources(Resources(1, 1)), takes=0.1)
    for seed in range(2):
        asyncio.run(desk.run(squeeze(seed=seed)))
    assert task.given == [1, 1]
    task.fails_below = 2.0
    with pytest.raises(ValueError, match="of Ray's"):
        asyncio.run(desk.run(squeeze(seed=9)))
    assert task.given == [1, 1, 1]
