"""What a teacher, or a network that is none's pupil, can be trained with."""

from __future__ import annotations

from typing import Any

import pytest

from builders import configured
from guard.config.labels import TEACHERS
from guard.errors import ConfigError

KEPT = {"method": "random", "regularizer": "pgd-at", "regularizer.ascent": "ls-pgd"}
PLAIN = {"method": "random", "regularizer": "none"}
WHITENED = {"model.input": "zca", "labels.teachers": ["none", "cure"]}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        *(
            (
                {**KEPT, "squeeze.augment": ["dsa"], "student.labels": labels},
                r"^squeeze\.augment: ls-pgd keeps perturbations, which follow crop and flip alone",
            )
            for labels in ("soft", "fixed", "budget")
        ),
        (
            {**PLAIN, **WHITENED, "student.labels": "soft"},
            r"^labels\.teachers \(cure\): normalized needs model\.input = normalize, got zca",
        ),
        (
            {"model.input": "zca", "sre2l.committee": {"teachers": ["own", "cure"]}},
            r"^sre2l\.committee\.teachers \(cure\): normalized needs model\.input = normalize",
        ),
        (
            {"method": "whole", "regularizer": "none", "student.regularizer": "rslad"},
            r"^student\.regularizer\.kind: rslad stays near a teacher's logits, and whole is",
        ),
        (
            {"method": "mat", "regularizer": "none", "mat.experts.adversary": "rslad"},
            r"^mat\.experts\.adversary\.kind: must be one of none, adversarial, trades, mart; got",
        ),
        (
            {**PLAIN, "student.labels": "soft", "labels.teachers": ["rslad"]},
            r"^labels\.teachers: must be one of own, none, .*; got 'rslad'",
        ),
    ],
)
def test_what_a_teacher_cannot_be_trained_with_is_refused(
    changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        configured(changes)


def test_only_a_loss_near_a_teacher_is_no_teachers_own() -> None:
    assert "rslad" not in TEACHERS and {"none", "pgd-at", "trades", "mart", "cure"} < {*TEACHERS}


def test_what_nobody_reads_breaks_no_rule() -> None:
    unread = {**PLAIN, **WHITENED, "labels.epoch": 7, "squeeze.epochs": 60}
    assert not configured(unread).is_taught
    with pytest.raises(ConfigError, match=r"^labels\.epoch: of 60 epochs 3, 6, .* are kept; got 7"):
        configured({**unread, "model.input": "normalize", "student.labels": "soft"})
