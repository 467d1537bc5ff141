from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import guard.attacks
import guard.evaluate
from guard.attacks import survivors
from guard.config import EvaluationConfig
from guard.evaluate import Verdicts, chosen, evaluate
from guard.seeding import generator

CPU = torch.device("cpu")
SUITE = ("pgd5", "mim", "cw", "square", "autoattack")


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.attacks, "SQUARE_QUERIES", 40)
    monkeypatch.setattr(guard.attacks, "AUTOATTACK_STEPS", 5)


def config(victim: Any, **changes: Any) -> EvaluationConfig:
    return EvaluationConfig(**{"eps": victim.eps, "attacks": ("pgd5",), **changes})


def run(victim: Any, **changes: Any) -> Verdicts:
    return evaluate(victim.model, victim.images, config(victim, **changes), 5, CPU)


@pytest.fixture
def verdicts(victim: Any) -> Verdicts:
    return run(victim, attacks=SUITE)


def test_clean_verdicts_are_the_models_own(victim: Any, verdicts: Verdicts) -> None:
    expected = victim.model(victim.x).argmax(dim=1) == victim.y
    assert torch.equal(verdicts.clean, expected)
    assert 0 < int((~expected).sum()) < len(expected)


def test_robust_is_right_under_every_attack(verdicts: Verdicts) -> None:
    assert tuple(verdicts.attacked) == SUITE
    robust = verdicts.clean.clone()
    for verdict in verdicts.attacked.values():
        assert verdict.dtype == torch.bool and verdict.shape == verdicts.clean.shape
        assert not (verdict & ~verdicts.clean).any()
        assert not (verdicts.robust & ~verdict).any()
        robust &= verdict
    assert torch.equal(robust, verdicts.robust)
    assert 0 < int(robust.sum()) < int(verdicts.clean.sum())


def test_metrics_are_shares_of_all_samples() -> None:
    clean = torch.tensor([True, True, True, False])
    attacked = {
        "mim": torch.tensor([True, False, True, False]),
        "cw": torch.tensor([False, False, True, False]),
    }
    assert Verdicts(clean, attacked).metrics() == {
        "clean_accuracy": 0.75,
        "robust_accuracy": 0.25,
        "robust_accuracy/mim": 0.5,
        "robust_accuracy/cw": 0.25,
        "num_samples": 4.0,
    }


def test_an_evaluation_is_repeatable_and_leaves_no_trace(victim: Any, verdicts: Verdicts) -> None:
    state = torch.get_rng_state()
    again = run(victim, attacks=SUITE)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.clean, verdicts.clean)
    assert all(torch.equal(again.attacked[name], verdicts.attacked[name]) for name in SUITE)
    assert all(parameter.requires_grad for parameter in victim.model.parameters())


@pytest.mark.parametrize("attack", ["pgd5", "mim", "square", "autoattack"])
def test_without_a_radius_robust_is_clean(attack: str, victim: Any) -> None:
    verdicts = run(victim, eps=0, attacks=(attack,))
    assert torch.equal(verdicts.attacked[attack], verdicts.clean)
    assert not torch.equal(run(victim, eps=0.3, attacks=(attack,)).robust, verdicts.clean)


def test_a_larger_ball_is_no_easier(victim: Any) -> None:
    shares = [run(victim, eps=eps, attacks=("pgd5",)).metrics() for eps in (0.02, 0.09, 0.3)]
    robust = [row["robust_accuracy"] for row in shares]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[1] > robust[2]


def test_a_model_in_training_mode_is_evaluated_in_evaluation_mode(victim: Any) -> None:
    with_dropout = nn.Sequential(victim.model, nn.Dropout(0.9)).train()
    verdicts = evaluate(with_dropout, victim.images, config(victim), 5, CPU)
    assert not with_dropout.training
    assert torch.equal(verdicts.clean, victim.model(victim.x).argmax(dim=1) == victim.y)


def test_attacks_see_only_the_samples_that_are_right_so_far(
    victim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    seeds: list[int] = []

    def counting(attack: Any, model: Any, x: Any, y: Any, seed: int) -> torch.Tensor:
        counts.append(len(x))
        seeds.append(seed)
        assert bool((model(x).argmax(dim=1) == y).all())
        return survivors(attack, model, x, y, seed)

    monkeypatch.setattr(guard.evaluate, "survivors", counting)
    verdicts = run(victim, attacks=("autoattack", "mim"), batch_size=24)
    right = int(verdicts.clean.sum())
    assert counts[0] == right and counts[-1] == right
    assert counts[0] >= counts[1] >= counts[2] >= counts[3]
    assert counts[0] > counts[3]
    assert len(set(seeds)) == len(seeds) == 5


def test_every_batch_is_evaluated_and_kept_in_order(victim: Any) -> None:
    whole = run(victim, attacks=("mim",), batch_size=500)
    for batch_size in (1, 7, 24):
        parts = run(victim, attacks=("mim",), batch_size=batch_size)
        assert torch.equal(parts.clean, whole.clean)
        assert torch.equal(parts.attacked["mim"], whole.attacked["mim"])


def test_the_seed_reaches_the_attack(victim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def spy(*arguments: Any) -> torch.Tensor:
        drawn.append(arguments[-1])
        return survivors(*arguments)

    monkeypatch.setattr(guard.evaluate, "survivors", spy)
    for seed in (0, 0, 1):
        run(victim, seed=seed)
    assert drawn[0] == drawn[1] != drawn[2]


def test_max_samples_draws_a_subset_by_the_seed(victim: Any) -> None:
    subsets = [
        chosen(victim.images, config(victim, max_samples=6, seed=seed)) for seed in (0, 0, 1)
    ]
    order = torch.randperm(24, generator=generator(0, "samples"))[:6].sort().values
    assert torch.equal(subsets[0].x, victim.images.x[order])
    assert torch.equal(subsets[0].x, subsets[1].x)
    assert not torch.equal(subsets[0].x, subsets[2].x)
    assert run(victim, max_samples=6).metrics()["num_samples"] == 6


@pytest.mark.parametrize("max_samples", [None, 24, 1000])
def test_all_samples_where_there_are_no_more(max_samples: int | None, victim: Any) -> None:
    assert chosen(victim.images, config(victim, max_samples=max_samples)) is victim.images


def test_an_evaluation_of_a_model_that_is_always_wrong(victim: Any) -> None:
    images = dataclasses.replace(victim.images, y=(victim.model(victim.x).argmax(dim=1) + 1) % 5)
    metrics = evaluate(victim.model, images, config(victim, attacks=SUITE), 5, CPU).metrics()
    accuracies = [value for name, value in metrics.items() if "accuracy" in name]
    assert accuracies == [0.0] * 7
