"""Attacks that begin where the image's last one ended (LS-PGD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attacked import DEFINED, EPS, bn_net, samples, searching, smooth_net
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.config import RegularizerConfig
from guard.errors import ConfigError
from guard.pipeline import local_runner
from guard.training.line_search import line_search
from guard.training.losses import TrainingLoss, gains
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import draws

COUNT = 7


def beginning(x: Tensor, seed: int = 4) -> Tensor:
    return EPS * (2 * torch.rand(x.shape, generator=draws(seed), dtype=x.dtype) - 1)


def image_by_image(
    kind: str, model: nn.Module, x: Tensor, y: Tensor, moves: Tensor, known: Tensor, **fields: Any
) -> tuple[Tensor, Tensor]:
    """What the paper says, one image after another, one candidate after another."""
    own, found, reached = searching(kind, **fields), [], []
    for one, label, move, last in zip(x[:, None], y[:, None], moves[:, None], known, strict=True):
        clean = model(one).detach() if kind == "trades" else None
        low, high = one.clamp(max=0), one.clamp(min=1)

        def project(
            moved: Tensor, one: Tensor = one, low: Tensor = low, high: Tensor = high
        ) -> Tensor:
            return torch.minimum(torch.maximum(one + (moved - one).clamp(-EPS, EPS), low), high)

        def loss(moved: Tensor, label: Tensor = label, clean: Tensor | None = clean) -> Tensor:
            return gains(model(moved), label, clean)[0]

        here = project(one + move).requires_grad_()
        value = loss(here)
        best = (here.detach(), value.detach())
        if value < last:
            (gradient,) = torch.autograd.grad(value, here)
            lengths = [own.step_size * own.growth**q * EPS for q in range(own.candidates)]
            tried = [project(here.detach() + n * gradient.sign()) for n in lengths]
            best = max(((t, loss(t).detach()) for t in tried), key=lambda pair: float(pair[1]))
        found.append(best[0])
        reached.append(best[1])
    return torch.cat(found), torch.stack(reached)


@pytest.mark.parametrize("fields", [{}, {"candidates": 1}, {"growth": 1.5, "step_size": 0.4}])
@pytest.mark.parametrize("kind", DEFINED)
def test_a_search_is_what_its_definition_says(kind: str, fields: Mapping[str, Any]) -> None:
    model, (x, y) = smooth_net(), samples(COUNT, low=-0.1, high=1.1)
    moves = beginning(x)
    clean = model(x).detach() if kind == "trades" else None
    here = gains(model((x + moves).clamp(x.clamp(max=0), x.clamp(min=1))), y, clean).detach()
    known = here + torch.tensor([math.inf, 1.0, -1.0, 1.0, 0.0, -math.inf, 0.1])
    expected = image_by_image(kind, model, x, y, moves, known, **fields)
    found = line_search(model, x, y, searching(kind, **fields), EPS, moves, known)
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DEFINED)
def test_a_search_stays_in_the_ball_and_in_the_pixel_range(kind: str) -> None:
    model, (x, y) = smooth_net(), samples(40)
    known = torch.full((40,), math.inf, dtype=x.dtype)
    moved, gain = line_search(model, x, y, searching(kind), EPS, 3 * beginning(x), known)
    assert float((moved - x).abs().max()) <= EPS + 1e-12
    assert moved.min() == 0 and moved.max() == 1, "both ends of the range are met"
    assert not moved.requires_grad and not gain.requires_grad


def test_what_has_not_dropped_is_taken_again_after_one_pass() -> None:
    model, (x, y) = bn_net().train(), samples(COUNT, low=0.2, high=0.8)
    seen: list[int] = []
    model.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    known = torch.full((COUNT,), -math.inf, dtype=x.dtype)
    moves = beginning(x)
    moved, gain = line_search(model, x, y, searching(), EPS, moves, known)
    torch.testing.assert_close(moved, x + moves)
    assert seen == [COUNT] and model.training
    known[:2] = math.inf
    line_search(model, x, y, searching(candidates=3), EPS, moves, known)
    assert seen[1:] == [COUNT, 2, 2, 2], "only those that have dropped are searched"
    again, _ = line_search(model, x, y, searching(), EPS, moves, gain)
    assert torch.equal(again, moved)


def test_visit_after_visit_the_loss_rises() -> None:
    model, (x, y) = smooth_net(), samples(40, low=0.2, high=0.8)
    moves, known = beginning(x), torch.full((40,), math.inf, dtype=x.dtype)
    means = [float(gains(model(x), y, None).detach().mean())]
    for _ in range(4):
        moved, gain = line_search(model, x, y, searching(), EPS, moves, known)
        moves, known = moved - x, torch.full_like(known, math.inf)
        means.append(float(gain.mean()))
    assert means == sorted(means) and means[-1] > 1.1 * means[0]


def test_a_plain_attack_is_none_of_a_search() -> None:
    x, y = samples()
    with pytest.raises(AssertionError, match="kept by"):
        TrainingLoss(searching(), EPS).attacked(smooth_net(), x, y, draws())


TINY: dict[str, Any] = {
    "model": {"width": 6, "depth": 2},
    "squeeze": {"epochs": 3, "optimizer": "adamw", "lr": 0.02, "augment": ["crop"]},
    "regularizer": {"kind": "adversarial", "ascent": "ls-pgd"},
    "evaluation.eps": 0.05,
}
EXPERTS: dict[str, Any] = {
    "method": "mat",
    "regularizer": "none",
    "model": {"name": "convnet", "width": 6, "depth": 2},
    "mat": {"max_start": 1, "expert_epochs": 1},
    "mat.experts": {"count": 1, "adversary": {"kind": "mart", "ascent": "ls-pgd"}},
    "mat.experts.train": {"epochs": 3, "lr": 0.1, "batch_size": 64, "momentum": 0.9},
}


@pytest.mark.parametrize("changes", [{}, EXPERTS])
def test_a_network_is_trained_by_it(changes: dict[str, Any], tmp_path: Path) -> None:
    config = TrialConfig().override(TINY).override(changes)
    (made,) = local_runner(ArtifactStore(tmp_path))(plan(config)[0])
    assert made.summary["metrics"]["kept_mebibytes"] == pytest.approx(0.321, abs=0.001)
    losses = [epoch["loss"] for epoch in made.summary["history"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"squeeze.augment": ["flip", "resized-crop", "dsa"]},
            "squeeze.augment: ls-pgd keeps perturbations, which follow crop and flip alone; got "
            "resized-crop, dsa (or set ascent = pgd)",
        ),
        (
            {"method": "whole", "squeeze.augment": ["dsa"]},
            "squeeze.augment: ls-pgd keeps perturbations, which follow crop and flip alone; got "
            "dsa (or set ascent = pgd)",
        ),
        (
            {"method": "mtt"},
            "mtt.experts.train.augment: ls-pgd keeps perturbations, which follow crop and flip "
            "alone; got dsa (or set ascent = pgd)",
        ),
        (
            {"regularizer": "none", "tesla.experts.adversary": TINY["regularizer"]},
            "tesla.experts.train.augment: ls-pgd keeps perturbations, which follow crop and flip "
            "alone; got dsa (or set ascent = pgd)",
        ),
        (
            {"method": "random", "student.labels": "soft", "squeeze.augment": ["dsa"]},
            "squeeze.augment: ls-pgd keeps perturbations, which follow crop and flip alone; got "
            "dsa (or set ascent = pgd)",
        ),
        *[
            (
                {"method": name},
                f"regularizer.ascent: the batches of {name} do not come back to the same network "
                "as they were, so there is no last attack to go on from: must be pgd, got ls-pgd",
            )
            for name in ("dc", "dsa", "idm")
        ],
        (
            {"student.regularizer": TINY["regularizer"]},
            "student.regularizer.ascent: a student's images, augmented and mixed, do not come back "
            "to the same network as they were, so there is no last attack to go on from: must be "
            "pgd, got ls-pgd",
        ),
        (
            {"rome.adversary": TINY["regularizer"]},
            "rome.adversary.ascent: batches for many networks do not come back to the same network "
            "as they were, so there is no last attack to go on from: must be pgd, got ls-pgd",
        ),
    ],
)
def test_what_it_cannot_be_combined_with_is_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(TINY).override(changes)
    assert str(caught.value) == told


def test_augmentations_of_what_is_not_trained_so_may_be_any() -> None:
    experts = {"method": "mtt", "mtt.experts.train.augment": ["flip"], "squeeze.augment": ["dsa"]}
    for changes in (experts, {"regularizer.ascent": "pgd", "squeeze.augment": ["dsa"]}):
        TrialConfig().override({**TINY, "squeeze.augment": []}).override(changes)


def test_a_visit_costs_a_search_at_most() -> None:
    assert RegularizerConfig.named("pgd-at").passes == 14
    assert searching().passes == 5
    assert searching(candidates=2).passes == 4
    assert searching("trades", weight=6).passes == 8
