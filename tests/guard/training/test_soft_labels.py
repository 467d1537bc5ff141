"""A teacher's labels of the batches that a student will see."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from students import SPACE, stage_named
from torch import Tensor

import guard.training.labels
from guard.artifacts import ArtifactStore
from guard.distilled import DistilledSet
from guard.models.input_layer import Normalize
from guard.models.saving import load_model
from guard.stages import Relabel, Student
from guard.training.labels import SoftLabels
from guard.training.recipe import Recipe
from guard.trial import TrialConfig


def inputs(batches: Iterator[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [x for x, _ in batches]


def test_soft_labels_are_the_teachers_logits_in_half_precision(trial: SimpleNamespace) -> None:
    labels = SoftLabels.of([trial.store.read(stage_named(trial.config, "relabel"))])
    made = DistilledSet.load(trial.result.paths["distilled"])
    teacher = load_model(trial.result.paths["teacher"])
    replayed = Recipe.of(trial.config.student, Normalize(made.spec.mean, made.spec.std))
    for epoch in range(3):
        batches = inputs(replayed.batches(made.images, made.one_hot(), epoch))
        with torch.no_grad():
            expected = torch.cat([teacher(x) for x in batches]).half().float()
        assert torch.equal(labels.epoch(epoch), expected)
    assert not torch.equal(labels.epoch(0), labels.epoch(1))


@pytest.mark.parametrize(
    ("file_bytes", "files"), [(1, [0, 1, 2]), (799, [0, 1, 2]), (800, [0, 2]), (1200, [0])]
)
def test_soft_labels_are_written_in_pieces_and_read_alike(
    file_bytes: int,
    files: list[int],
    trial: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An epoch of 20 images and 10 classes takes 400 bytes."""
    monkeypatch.setattr(guard.training.labels, "FILE_BYTES", file_bytes)
    stage, store = stage_named(trial.config, "relabel"), ArtifactStore(tmp_path)
    for needed in stage.inputs.values():
        shutil.copytree(trial.store.path(needed), store.path(needed))
    artifact = store.get_or_build(stage)
    written = sorted(path.name for path in artifact.path.glob("*.safetensors"))
    assert written == [f"logits-{first:05d}.safetensors" for first in files]
    pieces, whole = (SoftLabels.of([own]) for own in (artifact, trial.store.read(stage)))
    for epoch in range(3):
        assert torch.equal(pieces.epoch(epoch), whole.epoch(epoch))
    held = [load_file(artifact.path / name) for name in written]
    assert sorted(epoch for file in held for epoch in file) == ["0", "1", "2"]
    assert all(t.dtype == torch.float16 and t.shape == (20, 10) for f in held for t in f.values())


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_share_the_epochs_and_the_labels_are_the_same(
    parts: int, trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three epochs, each in a file of its own; the last parts have none where they are more."""
    monkeypatch.setattr(guard.training.labels, "FILE_BYTES", 1)
    config, store = trial.config.override({"labels.parts": parts}), ArtifactStore(tmp_path)
    student, whole = stage_named(config, "student"), stage_named(trial.config, "student")
    assert len(student.relabelled) == parts and whole.further_labels == ()
    for needed in (student.distilled, student.relabelled[0].teacher):
        shutil.copytree(trial.store.path(needed), store.path(needed))
    made = [store.get_or_build(part) for part in student.relabelled]
    assert [len(list(own.path.glob("*.safetensors"))) for own in made] == [
        len(range(3)[part::parts]) for part in range(parts)
    ]
    shared, alone = SoftLabels.of(made), SoftLabels.of([trial.store.read(whole.labels)])
    for epoch in range(3):
        assert torch.equal(shared.epoch(epoch), alone.epoch(epoch))
    ours = load_file(store.get_or_build(student).path / "model.safetensors")
    theirs = load_file(trial.store.read(whole).path / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert config.labels.is_plain


@pytest.mark.parametrize(
    ("change", "relabels"),
    [
        ({"student.temperature": 3}, False),
        ({"student.scale_by_t2": True}, False),
        ({"student.model.width": 5}, False),
        ({"student.train.lr": 0.5}, False),
        ({"student.train.epochs": 4}, True),
        ({"student.train.batch_size": 4}, True),
        ({"student.train.augment": ["flip"]}, True),
        ({"student.mix": "mixup"}, True),
        ({"student.mix_alpha": 0.3}, True),
        ({"student.seed": 1}, True),
    ],
)
def test_labels_are_made_anew_only_for_other_batches(
    change: dict[str, Any], relabels: bool, tiny_config: TrialConfig
) -> None:
    changed = tiny_config.override(change)
    for name, differs in (("relabel", relabels), ("student", True)):
        same = stage_named(changed, name).key == stage_named(tiny_config, name).key
        assert same is not differs
    assert stage_named(changed, "distilled").key == stage_named(tiny_config, "distilled").key


def test_the_relabel_stage_replays_the_students_recipe(tiny_config: TrialConfig) -> None:
    teacher, distilled, planned = (
        stage_named(tiny_config, name) for name in ("squeeze", "distilled", "student")
    )
    (relabel,) = Relabel.of(teacher, distilled, tiny_config.student, None)
    student = Student(
        distilled=distilled,
        whitening=None,
        labels=relabel,
        model=tiny_config.student_model,
        student=tiny_config.student,
        compute=tiny_config.compute,
    )
    assert student == planned
    assert relabel.inputs == {"teacher": teacher, "distilled": distilled}
    assert student.inputs == {"distilled": distilled, "labels": relabel}
    replayed = Recipe.of(relabel.student, SPACE)
    assert replayed == Recipe.of(tiny_config.student, SPACE)
    run = relabel.config["student"]["train"]
    assert run["epochs"] == tiny_config.student.train.epochs
