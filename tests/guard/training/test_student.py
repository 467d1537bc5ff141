"""What a student is trained on: its labels, its loss, its rate and its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from students import logits, replay, stage_named
from torch import Tensor

from guard.artifacts import ArtifactStore
from guard.data.spec import ImageSpec
from guard.distilled import DistilledSet
from guard.models.networks import build_model
from guard.models.saving import load_model
from guard.seeding import derive
from guard.stage import Stage
from guard.training.distillation import distillation_loss
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import draws


def test_the_student_sees_the_images_that_its_labels_are_of(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replay(trial.config, trial, tmp_path, monkeypatch)
    teacher = load_model(trial.result.paths["teacher"])
    assert [len(epoch) for epoch in given.epochs] == [3, 3, 3]
    for epoch in given.epochs:
        for x, target in epoch:
            with torch.no_grad():
                assert torch.equal(teacher(x).half().float(), target)
    first, second = (torch.cat([x for x, _ in epoch]) for epoch in given.epochs[:2])
    assert first.shape == (20, 1, 8, 8)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("scale_by_t2", [False, True])
def test_the_students_loss_is_distillation_at_its_temperature(
    scale_by_t2: bool,
    trial: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = {"student.temperature": 3, "student.scale_by_t2": scale_by_t2}
    given = replay(trial.config.override(changed), trial, tmp_path, monkeypatch)
    x, target = given.epochs[0][0]
    loss, answer = given.objective(given.model, x, target, 0)
    assert torch.equal(answer, given.model(x))
    factor = 9 if scale_by_t2 else 1
    expected = factor * distillation_loss(answer, target, 3.0)
    torch.testing.assert_close(loss, expected)


def planted(
    method: str, labels: str, config: TrialConfig, root: Path, soft: Tensor | None
) -> tuple[TrialConfig, SimpleNamespace]:
    """A trial of which only the distilled set is there: 20 images and a rate of 0.037."""
    config = config.override(
        {"method": method, "regularizer": "none", "student.labels": labels, "student.mix": "none"}
    )
    store, (stage,) = ArtifactStore(root), [s for s in plan(config) if s.name == "distilled"]
    spec = ImageSpec(
        channels=1,
        image_size=8,
        num_classes=10,
        mean=(0.3,),
        std=(0.25,),
        class_names=tuple("0123456789"),
    )
    images = torch.rand(20, 1, 8, 8, generator=draws())
    made = DistilledSet(
        images=images,
        labels=torch.arange(10).repeat(2),
        soft_labels=soft,
        spec=spec,
        card={"learned_lr": 0.037},
    )

    def save(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
        made.save(folder)
        return {}

    store.get_or_build(stage, save)
    return config, SimpleNamespace(store=store, made=made)


SOFT = logits(3, 20, 10).float().softmax(dim=1)


@pytest.mark.parametrize(
    ("method", "labels", "soft", "uses_soft"),
    [
        ("tesla", "auto", SOFT, True),
        ("tesla", "hard", SOFT, False),
        ("mtt", "auto", None, False),
        ("random", "auto", None, False),
    ],
)
def test_without_a_teacher_a_student_learns_the_sets_own_labels(
    method: str,
    labels: str,
    soft: Tensor | None,
    uses_soft: bool,
    tiny_config: TrialConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, trial = planted(method, labels, tiny_config, tmp_path / "store", soft)
    config = config.override({"student.train.augment": []})
    given = replay(config, trial, tmp_path, monkeypatch)
    hard = torch.eye(10)[trial.made.labels]
    expected = SOFT if uses_soft else hard
    for x, target in given.epochs[1]:
        same = (x[:, None] == trial.made.images).flatten(2).all(dim=2)
        assert torch.equal(target, expected[same.int().argmax(dim=1)])
    x, target = given.epochs[0][0]
    loss, answer = given.objective(given.model, x, target, 0)
    by_hand = -(target * answer.log_softmax(dim=1)).sum() / len(x)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("learned", [True, False])
def test_a_student_may_train_at_the_learned_rate(
    learned: bool, tiny_config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trial = planted("mtt", "auto", tiny_config, tmp_path / "store", None)
    config = config.override({"student.learned_lr": learned})
    given = replay(config, trial, tmp_path, monkeypatch)
    run = config.student.train
    assert run.lr != 0.037
    assert given.run == (replace(run, lr=0.037) if learned else run)


def test_a_student_starts_from_its_own_seed(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replay(trial.config, trial, tmp_path, monkeypatch)
    spec = DistilledSet.load(trial.result.paths["distilled"]).spec
    fresh = build_model(trial.config.model, spec, derive(0, "student")).state_dict()
    assert all(torch.equal(given.initial[name], value) for name, value in fresh.items())
    assert given.run == trial.config.student.train


def test_a_student_learns_the_teachers_answers(trial: SimpleNamespace, tmp_path: Path) -> None:
    record = trial.store.get(stage_named(trial.config, "student"))
    assert record is not None
    losses = [epoch["loss"] for epoch in record.summary["history"]]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert trial.result.metrics["student/train_loss"] == losses[-1]
