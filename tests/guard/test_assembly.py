"""How a distilled set is put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from guard.artifacts import ArtifactStore
from guard.assembly import assemble, in_prefix_order
from guard.config import ComputeConfig
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet, save_part
from guard.errors import Diverged
from guard.stages import Distilled, Part
from helpers import draws

SPEC = ImageSpec(
    channels=1, image_size=4, num_classes=3, mean=(0.5,), std=(0.25,), class_names=tuple("abc")
)


def test_chunks_are_put_in_prefix_order() -> None:
    chunks = [torch.rand(2, 3, 1, 4, 4, generator=draws(seed)) for seed in range(2)]
    parts = in_prefix_order(chunks, 3)
    assert [part.shape for part in parts] == [(6, 1, 4, 4), (3, 1, 4, 4)]
    images = torch.cat(parts)
    for index in range(3):
        for label in range(3):
            expected = chunks[index // 2][index % 2, label]
            assert torch.equal(images[index * 3 + label], expected)


@pytest.mark.parametrize("ipc", [1, 2, 3])
def test_a_smaller_set_is_a_prefix(ipc: int) -> None:
    chunks = [torch.rand(2, 3, 1, 4, 4, generator=draws(seed)) for seed in range(3)]
    whole, images = (torch.cat(in_prefix_order(chunks, count)) for count in (6, ipc))
    assert len(images) == ipc * 3
    assert torch.equal(images, whole[: ipc * 3])


@dataclass(frozen=True, kw_only=True)
class Numbered(Part):
    """Two images of each of three classes."""

    name, version, work = "numbered", 1, "nowhere:nothing"
    number: int


def parts(store: ArtifactStore, soft: bool) -> tuple[Part, ...]:
    """Two stages that each made two images of each of three classes."""
    stages = tuple(Numbered(number=number) for number in range(2))

    def build(stage: Any, store: ArtifactStore, folder: Path) -> dict[str, Any]:
        number = stage.number
        images = torch.rand(2, 3, 1, 4, 4, generator=draws(number))
        facts = {"soft_labels": torch.rand(2, 3, 3, generator=draws(9 + number))}
        save_part(folder, images, SPEC, learned_lr=0.5, **(facts if soft else {}))
        return {"metrics": {}}

    for stage in stages:
        store.get_or_build(stage, build)
    return stages


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("ipc", [1, 3, 4])
def test_a_set_is_put_together_from_its_parts(ipc: int, soft: bool, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    stage = Distilled(
        teacher=None, parts=parts(store, soft), method="mtt", ipc=ipc, compute=ComputeConfig()
    )
    made = DistilledSet.load(store.get_or_build(stage, assemble).path)
    assert made.labels.tolist() == [0, 1, 2] * ipc
    for number in range(ipc):
        which, index = divmod(number, 2)
        rows = slice(3 * number, 3 * number + 3)
        images = torch.rand(2, 3, 1, 4, 4, generator=draws(which))[index]
        assert torch.equal(made.images[rows], images)
        if soft:
            assert made.soft_labels is not None
            own = torch.rand(2, 3, 3, generator=draws(9 + which))[index]
            assert torch.equal(made.soft_labels[rows], own)
    assert (made.soft_labels is not None) is soft
    assert made.spec.class_names == ("a", "b", "c")
    kept = {name: made.card[name] for name in ("format", "method", "ipc", "learned_lr")}
    assert kept == {"format": 2, "method": "mtt", "ipc": ipc, "learned_lr": 0.5}
    assert made.card["inputs"] == {role: part.address for role, part in stage.inputs.items()}
    assert list(stage.inputs) == ["part-0000", "part-0001"]
    assert made.card["made_by"]["part-0000"]["config"] == {"number": 0}


def test_images_that_are_not_finite_are_a_trial_that_diverged(tmp_path: Path) -> None:
    store, part = ArtifactStore(tmp_path), Numbered(number=7)

    def build(stage: Any, store: ArtifactStore, folder: Path) -> dict[str, Any]:
        save_part(folder, torch.full((2, 3, 1, 4, 4), torch.nan), SPEC)
        return {"metrics": {}}

    store.get_or_build(part, build)
    stage = Distilled(teacher=None, parts=(part,), method="mtt", ipc=1, compute=ComputeConfig())
    with pytest.raises(Diverged, match="the distilled images are not finite"):
        store.get_or_build(stage, assemble)
