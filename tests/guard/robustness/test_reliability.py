from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guard.config import EvaluationConfig
from guard.robustness.flags import FLAGS, flags_of
from guard.robustness.reliability import behind_teacher, diagnose
from helpers import CPU


class Around(nn.Module):
    """A model with something done to its input or output."""

    def __init__(self, model: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(self.before(x) if self.before else x)
        return self.after(logits) if self.after else logits


def diagnosed(
    victim: SimpleNamespace, model: nn.Module | None = None, surrogate: nn.Module | None = None
) -> dict[str, float]:
    config = EvaluationConfig(eps=victim.eps)
    return diagnose(model or victim.model, victim.images, config, 5, CPU, surrogate)


def flagged(victim: SimpleNamespace, model: nn.Module | None = None) -> set[str]:
    return set(flags_of(diagnosed(victim, model), prefix=""))


def test_an_honest_model_raises_no_flag(victim: SimpleNamespace) -> None:
    found = diagnosed(victim, surrogate=victim.model)
    assert flags_of(found, prefix="") == [] and found["flags"] == 0
    assert found["transfer_gain"] == 0
    assert found["large_eps_excess"] < 0


def test_quantised_inputs_are_caught(victim: SimpleNamespace) -> None:
    model = Around(victim.model, before=lambda x: (4 * x).round() / 4)
    assert {"vanishing-gradient", "large-eps-survivors"} <= flagged(victim, model)


def test_a_saturating_scale_on_the_logits_is_caught(victim: SimpleNamespace) -> None:
    model = Around(victim.model, after=lambda logits: 1e5 * logits)
    assert {"vanishing-gradient", "large-eps-survivors"} <= flagged(victim, model)


def test_what_transfers_to_a_masked_model_is_counted(victim: SimpleNamespace) -> None:
    masked = Around(victim.model, after=lambda logits: 1e5 * logits)
    found = diagnosed(victim, masked, surrogate=victim.model)
    assert found["transfer_gain"] > 0.1
    assert "transfer-wins" in flags_of(found, prefix="")


def test_probabilities_are_caught(victim: SimpleNamespace) -> None:
    model = Around(victim.model, after=lambda logits: logits.softmax(dim=1))
    assert "probabilities" in flagged(victim, model)


def test_a_random_model_is_caught(victim: SimpleNamespace) -> None:
    model = Around(victim.model, before=lambda x: x + 0.05 * torch.randn_like(x))
    found = flagged(victim, model)
    assert "random" in found and "stateful" not in found


def test_a_stateful_model_is_caught(victim: SimpleNamespace) -> None:
    class Counting:
        asked = 0

        def __call__(self, logits: Tensor) -> Tensor:
            self.asked += 1
            return logits * (1 + 0.01 * self.asked)

    found = flagged(victim, Around(victim.model, after=Counting()))
    assert "stateful" in found and "random" not in found


def test_a_model_without_any_gradient_is_caught(victim: SimpleNamespace) -> None:
    model = Around(victim.model, before=lambda x: x.detach() + 0 * x)
    assert "vanishing-gradient" in flagged(victim, model)


def test_a_diagnosis_repeats_and_leaves_no_trace(victim: SimpleNamespace) -> None:
    state = torch.get_rng_state()
    assert diagnosed(victim) == diagnosed(victim)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in victim.model.parameters())


def test_a_model_that_is_never_right_is_diagnosed(victim: SimpleNamespace) -> None:
    wrong = (victim.model(victim.x).argmax(dim=1) + 1) % 5
    images: Any = Fixed(victim, wrong)
    found = diagnose(victim.model, images, EvaluationConfig(), 5, CPU)
    assert "square_gain" not in found and found["flags"] == 0


class Fixed:
    """Images whose labels are given."""

    def __init__(self, victim: SimpleNamespace, y: Tensor) -> None:
        self.x, self.y = victim.x, y

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, indices: Tensor) -> Fixed:
        return self

    def batches(self, batch_size: int, device: torch.device) -> Any:
        return iter([(self.x, self.y)])


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_raised_above_its_limit_only(name: str) -> None:
    flag = FLAGS[name]
    assert flags_of({f"reliability/{flag.measure}": flag.limit}) == []
    assert flags_of({f"reliability/{flag.measure}": flag.limit + 1e-6}) == [name]


@pytest.mark.parametrize(
    ("student", "teacher", "flagged"),
    [
        (0.16, 0.95, True),
        (0.21, 0.95, True),
        (0.05, 0.95, True),
        (0.30, 0.95, False),
        (0.95, 0.95, False),
        (0.16, 0.40, False),
    ],
)
def test_a_student_near_chance_is_flagged_under_a_good_teacher(
    student: float, teacher: float, flagged: bool
) -> None:
    found = {"reliability/behind_teacher": behind_teacher(student, teacher, 0.1)}
    assert flags_of(found) == (["student-at-chance"] if flagged else [])


def test_a_student_that_has_learned_nothing_is_caught(victim: SimpleNamespace) -> None:
    blind = Around(victim.model, after=lambda logits: 0.01 * logits + torch.eye(5)[0])
    found = diagnosed(victim, blind, surrogate=victim.model)
    assert found["behind_teacher"] > 0.85
    assert "student-at-chance" in flags_of(found, prefix="")
    assert "behind_teacher" not in diagnosed(victim, blind)
    assert diagnosed(victim, victim.model, surrogate=blind)["behind_teacher"] == 0
