from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from guard.card import finished_card
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages


def test_a_card_says_how_good_the_teacher_is(trial: SimpleNamespace) -> None:
    folder, metrics = trial.result.paths["distilled"], trial.result.metrics
    stored = json.loads((folder / "card.json").read_text())
    card = finished_card(folder, trial.config, metrics)
    teacher = card.pop("teacher")
    assert card == stored
    assert teacher == {
        "network": card["inputs"]["teacher"],
        "split": "validation",
        "num_samples": 50,
        "clean_accuracy": metrics["teacher/clean_accuracy"],
        "robust_accuracy": metrics["teacher/robust_accuracy"],
        "norm": "Linf",
        "eps": 0.05,
        "attacks": ["pgd20"],
    }
    assert 0 <= teacher["robust_accuracy"] <= teacher["clean_accuracy"] <= 1


def test_what_is_stored_does_not_depend_on_the_threat_model(trial: SimpleNamespace) -> None:
    other = trial.config.override({"evaluation.eps": 0.2, "regularizer": "none"})
    plain = trial.config.override({"regularizer": "none"})
    assert TrialStages.of(other).distilled == TrialStages.of(plain).distilled


def test_there_is_nothing_to_add_before_the_teacher_is_checked(trial: SimpleNamespace) -> None:
    folder = trial.result.paths["distilled"]
    assert "teacher" not in finished_card(folder, trial.config, {"teacher/train_loss": 1.0})


@pytest.mark.parametrize(
    ("changes", "checked"),
    [
        ({"method": "dc"}, None),
        ({"method": "random", "student.labels": "soft", "regularizer": "none"}, "squeeze"),
        ({"method": "dc", "student.labels": "soft"}, "squeeze"),
        ({"method": "mtt"}, "expert"),
        ({"method": "mtt", "student.labels": "soft"}, "expert"),
        ({"method": "sre2l", "student.labels": "hard"}, "squeeze"),
        ({"method": "whole"}, None),
    ],
)
def test_the_teacher_is_whom_a_set_is_distilled_by_or_else_labelled_by(
    changes: dict[str, Any], checked: str | None
) -> None:
    stages = TrialStages.of(TrialConfig().override(changes))
    assert [check.model.name for check in stages.teacher_check] == ([checked] if checked else [])
