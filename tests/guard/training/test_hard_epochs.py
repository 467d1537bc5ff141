"""Students that learn the classes between two phases of a teacher's labels (HALD)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from students import replay, stage_named

from guard.config import StudentConfig
from guard.distilled import DistilledSet
from guard.errors import ConfigError
from guard.models.input_layer import Normalize
from guard.models.saving import load_model
from guard.training.distillation import distillation_loss
from guard.training.recipe import Recipe
from guard.trial import TrialConfig

CHANGES = {
    "student.train.epochs": 5,
    "student.hard_epochs": 2,
    "student.hard_smoothing": 0.6,
    "student.mix": "cutmix",
}


def phases(epochs: int, hard: int) -> list[tuple[bool, int]]:
    config = StudentConfig().override({"train.epochs": epochs, "hard_epochs": hard})
    return [config.phase(epoch) for epoch in range(epochs)]


def test_hard_epochs_are_the_middle_and_no_batches_come_twice() -> None:
    assert phases(3, 0) == [(False, 0), (False, 1), (False, 2)]
    assert phases(5, 2) == [(False, 0), (True, 3), (True, 4), (False, 1), (False, 2)]
    hald = StudentConfig.named("hald")
    found = [hald.phase(epoch) for epoch in range(300)]
    assert [is_hard for is_hard, _ in found] == [False] * 50 + [True] * 200 + [False] * 50
    assert [number for is_hard, number in found if not is_hard] == list(range(100))
    assert sorted(number for _, number in found) == list(range(300))


def test_a_teacher_labels_the_soft_epochs_alone(tiny_config: TrialConfig) -> None:
    hard = tiny_config.override(CHANGES)
    fewer = tiny_config.override({"student.train.epochs": 3, "student.mix": "cutmix"})
    assert stage_named(hard, "relabel") == stage_named(fewer, "relabel")
    assert stage_named(hard, "student").key != stage_named(fewer, "student").key
    other = hard.override({"student.hard_smoothing": 0.5})
    assert stage_named(hard, "relabel") == stage_named(other, "relabel")
    assert stage_named(hard, "student").key != stage_named(other, "student").key
    assert "hard_epochs" not in StudentConfig().to_dict()
    pool = {"student.labels": "budget", "student.budget": 3}
    sets = [stage_named(own.override(pool), "distilled") for own in (hard, fewer)]
    assert sets[0] == sets[1]


def test_a_student_sees_the_teachers_labels_and_smoothed_classes_between(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial.config.override(CHANGES)
    trial.store.get_or_build(stage_named(config, "relabel"))
    given = replay(config, trial, tmp_path, monkeypatch)
    teacher = load_model(trial.result.paths["teacher"])
    made = DistilledSet.load(trial.result.paths["distilled"])
    recipe = Recipe.of(config.student, Normalize(made.spec.mean, made.spec.std))
    classes = torch.eye(10)[made.labels]
    for epoch, number in ((0, 0), (3, 1), (4, 2)):
        wanted = list(recipe.batches(made.images, classes, number))
        for (x, target), (same, _) in zip(given.epochs[epoch], wanted, strict=True):
            assert torch.equal(x, same)
            with torch.no_grad():
                assert torch.equal(teacher(x).half().float(), target)
    unmixed = replace(recipe, mix="none")
    for epoch, number in ((1, 3), (2, 4)):
        wanted = list(unmixed.batches(made.images, classes, number))
        for (x, target), (same, own) in zip(given.epochs[epoch], wanted, strict=True):
            assert torch.equal(x, same) and set(own.unique().tolist()) == {0, 1}
            torch.testing.assert_close(target, 0.4 * own + 0.6 / 10)
    x, logits = given.epochs[4][0]
    loss, answer = given.objective(given.model, x, logits, 4)
    temperature = config.student.temperature
    torch.testing.assert_close(loss, distillation_loss(answer, logits, temperature))
    x, target = given.epochs[1][0]
    loss, answer = given.objective(given.model, x, target, 1)
    by_hand = -(target * answer.log_softmax(dim=1)).sum() / len(x)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"student.hard_epochs": 200},
            "student.hard_epochs: must be below train.epochs = 200, got 200",
        ),
        (
            {"method": "mtt", "student.hard_epochs": 1},
            "student.hard_epochs: lie between a teacher's labels, so mtt needs student.labels = "
            "soft, fixed, budget; got auto",
        ),
        (
            {"student.labels": "hard", "student.hard_epochs": 1},
            "student.hard_epochs: lie between a teacher's labels, so sre2l needs student.labels = "
            "soft, fixed, budget; got hard",
        ),
        (
            {"student.regularizer": "rslad", "student.hard_epochs": 3},
            "student.hard_epochs: have no teacher's logits for rslad to stay near to: must be 0, "
            "got 3",
        ),
        (
            {"student.hard_smoothing": 1.5},
            "student.hard_smoothing: must be at least 0 and at most 1, got 1.5",
        ),
    ],
)
def test_what_has_no_meaning_is_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(changes)
    assert str(caught.value) == told
