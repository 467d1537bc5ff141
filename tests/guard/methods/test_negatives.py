"""What a contrast tells images from, against plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_dm import PGD, QUEUE, interrupted, matching
from torch import Tensor

from guard.checkpoint import Checkpoint
from guard.errors import ConfigError
from guard.methods.dm import DM, NegativesConfig
from guard.methods.dm.losses import supervised_contrast
from guard.methods.dm.negatives import Negatives
from guard.trial import TrialConfig
from helpers import CPU, draws

K, F = 3, 5


def step(seed: int, each: int = 2) -> tuple[Tensor, Tensor]:
    """Embeddings of a step, clean ones and attacked ones, class by class in both."""
    y = torch.arange(K).repeat_interleave(each).repeat(2)
    return torch.randn(len(y), F, generator=draws(seed), dtype=torch.float64), y


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def by_hand(
    e: np.ndarray,
    y: list[int],
    old: list[tuple[np.ndarray, int]],
    config: NegativesConfig,
    projection: np.ndarray,
    temperature: float,
) -> float:
    """Image by image: its class, and the k nearest of other classes in the projection."""
    everything = [*zip(e, y, strict=True), *old]
    terms = []
    for i, label in enumerate(y):
        foreign = [other for other, own in everything if own != label]
        foreign.sort(key=lambda other: -cosine(e[i] @ projection, other @ projection))
        chosen = foreign[: config.hardest]
        friends = [e[j] for j in range(len(y)) if j != i and y[j] == label]
        total = sum(math.exp(cosine(e[i], other) / temperature) for other in [*friends, *chosen])
        shares = [math.exp(cosine(e[i], own) / temperature) / total for own in friends]
        terms.append(-sum(map(math.log, shares)) / len(shares))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("queue", "hardest"), [(6, 4), (4, 1), (0, 3), (100, 1000)])
def test_the_contrast_is_with_the_nearest_of_the_step_and_of_the_queue(
    queue: int, hardest: int
) -> None:
    """Over four steps, with queues that are fuller and fuller."""
    config = NegativesConfig(queue=queue, hardest=hardest, dimensions=3)
    negatives = Negatives(config, K, CPU)
    old: list[list[np.ndarray]] = [[] for _ in range(K)]
    for number in range(4):
        e, y = step(number)
        projection = torch.randn(F, 3, generator=draws(number + 50)).double().numpy()
        known = [(own, label) for label in range(K) for own in old[label]]
        expected = by_hand(e.numpy(), y.tolist(), known, config, projection, 0.3)
        told_from = negatives.of(e, y, draws(number + 50))
        assert float(supervised_contrast(e, y, 0.3, told_from)) == pytest.approx(expected)
        for own, label in zip(e.numpy(), y.tolist(), strict=True):
            old[label] = [*old[label], own][-queue:] if queue else []
    for label in range(K if queue else 0):
        kept = np.stack([own / np.linalg.norm(own) for own in old[label]])
        np.testing.assert_allclose(negatives.kept[label].numpy(), kept)


def test_all_of_the_step_and_no_queue_is_the_plain_contrast() -> None:
    e, y = step(0)
    told_from = Negatives(NegativesConfig(queue=0, hardest=99), K, CPU).of(e, y, draws())
    assert told_from.shape == (len(y), 8)
    plain = supervised_contrast(e, y, 0.2)
    torch.testing.assert_close(supervised_contrast(e, y, 0.2, told_from), plain)


def test_the_search_sees_the_projection_alone_and_the_loss_everything() -> None:
    """In one dimension half of all directions are as near as can be."""
    e, y = step(1, each=4)
    config = NegativesConfig(queue=0, hardest=3, dimensions=1)
    found = Negatives(config, K, CPU).of(e, y, draws(2))
    sides = (e @ torch.randn(F, 1, generator=draws(2)).double()).squeeze(1).sign()
    for i, row in enumerate(found):
        same = [
            cosine(e[i].numpy(), e[j].numpy())
            for j in range(len(y))
            if y[j] != y[i] and sides[j] == sides[i]
        ]
        assert len(same) >= 3
        assert all(any(abs(float(value) - own) < 1e-9 for own in same) for value in row)


def test_gradients_reach_the_step_and_nothing_that_is_old() -> None:
    config = NegativesConfig(queue=4, hardest=5, dimensions=4)
    first, y = step(3)

    def value(e: Tensor) -> Tensor:
        negatives = Negatives(config, K, CPU)
        negatives.push(first, y)
        return supervised_contrast(e, y, 0.5, negatives.of(e, y, draws(4)))

    e = step(4)[0].requires_grad_()
    assert torch.autograd.gradcheck(value, (e,))
    negatives = Negatives(config, K, CPU)
    negatives.of(e, y, draws())
    assert negatives.kept.shape == (K, 4, F) and not negatives.kept.requires_grad


def test_a_matching_tells_its_images_from_those_of_earlier_steps() -> None:
    made = matching(
        networks=QUEUE,
        adversary=PGD,
        contrast_weight=1.0,
        negatives=NegativesConfig(queue=9, hardest=6, dimensions=8),
    )
    u, model = made.start(), made.build(1).eval()
    for number in range(3):
        _, metrics = made.loss_of(model, 0.0, u, number, draws(number))
        assert made.negatives is not None
        assert made.negatives.kept.shape[:2] == (4, min(4 * (number + 1), 9))
        kept = made.negatives.kept.norm(dim=2)
        torch.testing.assert_close(kept, torch.ones_like(kept))
        assert math.isfinite(metrics["contrast"])
    again = matching(networks=QUEUE, adversary=PGD, contrast_weight=1.0)
    _, plain = again.loss_of(model, 0.0, u, 2, draws(2))
    assert plain["contrast"] != metrics["contrast"]
    assert plain["matching_distance"] == metrics["matching_distance"]


def test_a_run_that_is_taken_up_again_has_the_queue_that_it_had(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "iterations": 4,
        "networks": QUEUE,
        "adversary": PGD,
        "contrast_weight": 0.5,
        "negatives": {"queue": 6, "hardest": 5, "dimensions": 4},
    }
    whole, metrics = matching(**settings).run()
    made = matching(**settings)
    interrupted(made, 3)
    with pytest.raises(KeyboardInterrupt):
        made.run(Checkpoint(tmp_path, every_s=0))
    again, last = matching(**settings).run(Checkpoint(tmp_path, every_s=0))
    assert torch.equal(again, whole) and last == metrics


def test_a_section_that_is_off_says_nothing() -> None:
    assert "negatives" not in DM().to_dict()
    base = TrialConfig().override({"method": "c2r", "regularizer": "none"})
    on = base.override({"c2r.negatives": "hardest"})
    assert base.fingerprint() != on.fingerprint()
    assert on.c2r.negatives == NegativesConfig()
    assert on.override({"c2r.negatives": None}).fingerprint() == base.fingerprint()
    for name in ("queue", "hardest", "dimensions"):
        assert on.override({f"c2r.negatives.{name}": 7}).fingerprint() != on.fingerprint()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"dm.negatives.queue": 3},
            "dm.negatives: are of a contrast, got contrast_weight = 0",
        ),
        (
            {"c2r.negatives.hardest": 0},
            "c2r.negatives.hardest: must be at least 1, got 0",
        ),
        (
            {"c2r.negatives.queue": -1},
            "c2r.negatives.queue: must be at least 0, got -1",
        ),
    ],
)
def test_what_has_no_meaning_is_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(changes)
    assert str(caught.value) == told
