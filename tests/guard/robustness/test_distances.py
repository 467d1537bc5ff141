"""How far an attack went, and whether it counts in a ball."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from evaluating import config
from torch import Tensor, nn

import guard.robustness.evaluate
from guard.config import EvaluationConfig
from guard.robustness.evaluate import chosen, evaluate
from guard.robustness.verdicts import Verdicts, metrics, share
from helpers import CPU

pytestmark = pytest.mark.usefixtures("cheap_attacks")

NORMS = pytest.mark.parametrize("norm", ["Linf", "L2"])


def displaced(
    victim: Any, lengths: Tensor, norm: str, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> Verdicts:
    """Verdicts where an attack moves the samples by these lengths, and the model is wrong about any
    that was moved."""
    size = 1.0 if norm == "Linf" else math.sqrt(36)

    def attack(name: str, model: Any, x: Tensor, y: Tensor, *rest: Any) -> Tensor:
        return x + lengths[:, None, None, None] / size

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            is_moved = x[:, 0, 0, 0] > 0.251
            return torch.stack([~is_moved, is_moved], dim=1).float()

    monkeypatch.setattr(guard.robustness.evaluate, "attack_images", attack)
    x = torch.full((len(lengths), 1, 6, 6), 64, dtype=torch.uint8)
    images = dataclasses.replace(victim.images, x=x, y=torch.zeros(len(lengths)).long())
    own = EvaluationConfig(eps=0.1, norm=norm, cascade=False, **changes)
    return evaluate(Broken(), images, own, 2, CPU)


LENGTHS = torch.tensor([0.0, 0.05, 0.0999, 0.1, 0.1002, 0.3])


@NORMS
@pytest.mark.parametrize("attack", ["pgd5", "square"])
def test_a_perturbation_outside_of_the_ball_breaks_nothing(
    attack: str, norm: str, victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = displaced(victim, LENGTHS, norm, monkeypatch, attacks=(attack,))
    assert found.clean.all()
    assert found.under(0.1, attack).tolist() == [True, False, False, False, True, True]
    assert found.distances == {}


@NORMS
@pytest.mark.parametrize("attack", ["cw", "deepfool"])
def test_an_unbounded_attack_counts_at_any_distance_but_in_a_ball_only_within_it(
    attack: str, norm: str, victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = displaced(victim, LENGTHS, norm, monkeypatch, attacks=(attack,))
    assert found.under(0.1, attack).tolist() == [True] + [False] * 5
    assert found.robust(0.15).tolist() == [True] + [False] * 4 + [True]
    assert found.robust(0.05 - 1e-3).all()
    lengths = found.distances[attack]
    torch.testing.assert_close(lengths[1:], LENGTHS[1:], rtol=1e-5, atol=1e-6)
    assert lengths[0] == math.inf


@pytest.mark.parametrize("attack", ["cw", "deepfool"])
@NORMS
def test_an_unbounded_attack_knows_how_far_it_went(attack: str, norm: str, victim: Any) -> None:
    own = config(victim, attacks=(attack,), norm=norm, max_samples=14)
    found = evaluate(victim.model, chosen(victim.images, own), own, 5, CPU)
    broken = found.clean & ~found.survived[math.inf, attack]
    lengths = found.distances[attack]
    assert broken.sum() > 0.8 * found.clean.sum()
    assert bool((lengths[broken] > 0).all()) and bool(lengths[broken].isfinite().all())
    assert bool((lengths[~found.clean] == 0).all()) and not found.clean.all()
    assert bool((lengths[found.survived[math.inf, attack]] == math.inf).all())
    median = metrics(found, own)[f"distance/{attack}"]
    assert share(found.robust(median * 1.01)) < share(found.clean) / 2 + 0.05
    assert share(found.robust(median * 0.99)) > share(found.clean) / 2 - 0.05
