"""What a student loses by answering otherwise than its labels: KL, squares, the cosine."""

from __future__ import annotations

import math

import pytest
import torch
from students import logits
from torch.nn import functional as F

from guard.config import StudentConfig
from guard.errors import ConfigError
from guard.training.distillation import LabelLoss, cosine_loss, distillation_loss

CLASSES = torch.eye(5, dtype=torch.float64)[torch.tensor([0, 3, 1, 4, 4, 2])]


def loss(**fields: object) -> LabelLoss:
    return LabelLoss(config=StudentConfig().override(fields))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_the_distillation_loss_is_the_kl_divergence(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    p, q = (teacher / temperature).softmax(dim=1), (student / temperature).softmax(dim=1)
    expected = float((p * (p.log() - q.log())).sum(dim=1).mean())
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(expected)
    assert expected > 1e-4


def test_the_distillation_loss_vanishes_at_the_teachers_answer() -> None:
    teacher = logits(1)
    assert float(distillation_loss(teacher + 3, teacher, 2.0)) == pytest.approx(0, abs=1e-12)


def test_the_distillation_loss_pulls_towards_the_teacher() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    (gradient,) = torch.autograd.grad(distillation_loss(student, teacher, 3.0), student)
    pull = (student / 3).softmax(dim=1) - (teacher / 3).softmax(dim=1)
    torch.testing.assert_close(gradient, pull / 3 / len(teacher))


def test_a_mean_over_the_batch() -> None:
    student, teacher = logits(0), logits(1)
    alone = [float(distillation_loss(student[i : i + 1], teacher[i : i + 1], 4)) for i in range(6)]
    assert float(distillation_loss(student, teacher, 4)) == pytest.approx(sum(alone) / 6)


def test_mse_is_the_squared_difference_and_a_little_cross_entropy() -> None:
    student, teacher, own = logits(0), logits(1), loss(loss="mse")
    found = float(own(student, own.target(teacher, CLASSES)))
    squares = sum(float((student[i, k] - teacher[i, k]) ** 2) for i in range(6) for k in range(5))
    cross = -sum(float(student.log_softmax(1)[i] @ CLASSES[i]) for i in range(6)) / 6
    assert found == pytest.approx(squares / 30 + 0.025 * cross)
    assert float(loss(loss="mse", hard_weight=0)(student, teacher)) == pytest.approx(squares / 30)


def test_the_cosine_loss_by_hand() -> None:
    student, teacher, share = logits(0), logits(1), 0.3
    total = 0.0
    for z, t, c in zip(student, teacher, CLASSES, strict=True):
        smooth = [0.9 * float(v) + 0.1 / 5 for v in c]
        q = [math.exp(v) for v in t.tolist()]
        q = [v / sum(q) for v in q]
        label = [
            share * s / math.hypot(*smooth) + (1 - share) * p / math.hypot(*q)
            for s, p in zip(smooth, q, strict=True)
        ]
        dot = sum(a * b for a, b in zip(z.tolist(), label, strict=True))
        total += 1 - dot / math.hypot(*z.tolist()) / math.hypot(*label)
    assert float(cosine_loss(student, teacher, CLASSES, share)) == pytest.approx(total / 6)


def test_the_cosine_loss_falls_towards_its_label() -> None:
    """GIFT's published text prints the sign the other way round."""
    teacher = logits(1)
    towards = teacher.softmax(dim=1)
    assert float(cosine_loss(towards, teacher, CLASSES, 0.0)) == pytest.approx(0, abs=1e-9)
    assert float(cosine_loss(-towards, teacher, CLASSES, 0.0)) == pytest.approx(2)
    student = logits(0).requires_grad_()
    (gradient,) = torch.autograd.grad(cosine_loss(student, teacher, CLASSES, 0.1), student)
    stepped = student - 0.1 * gradient
    assert cosine_loss(stepped, teacher, CLASSES, 0.1) < cosine_loss(student, teacher, CLASSES, 0.1)


def test_kl_is_as_before_and_may_have_the_classes_beside_it() -> None:
    student, teacher = logits(0), logits(1)
    plain = distillation_loss(student, teacher, 20.0)
    assert torch.equal(loss()(student, teacher), plain)
    own = loss(hard_weight=0.5)
    expected = plain + 0.5 * F.cross_entropy(student, CLASSES)
    torch.testing.assert_close(own(student, own.target(teacher, CLASSES)), expected)


@pytest.mark.parametrize("kind", ["kl", "mse", "cosine"])
def test_what_is_mixed_is_the_teachers_answer_again(kind: str) -> None:
    own, teacher = loss(loss=kind, temperature=3), logits(1)
    back = own.unmixed(own.mixable(teacher))
    torch.testing.assert_close(back.softmax(dim=1), teacher.softmax(dim=1))
    assert (kind == "mse") == torch.equal(back, teacher)


def test_fixed_labels_are_mixed_as_the_probabilities_that_kl_compares() -> None:
    own, teacher = loss(temperature=3), logits(1)
    mixed = 0.3 * own.mixable(teacher) + 0.7 * own.mixable(teacher.flip(0))
    p = 0.3 * (teacher / 3).softmax(1) + 0.7 * (teacher.flip(0) / 3).softmax(1)
    student = logits(0)
    expected = (p * (p.log() - (student / 3).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(own(student, own.unmixed(mixed)), expected)


def test_a_share_is_at_most_one() -> None:
    with pytest.raises(ConfigError, match=r"hard_weight: is a share of cosine, got 2"):
        StudentConfig(loss="cosine", hard_weight=2)
