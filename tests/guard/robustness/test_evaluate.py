"""Evaluations of a small classifier."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from evaluating import assert_same, config
from torch import Tensor, nn

import guard.robustness.evaluate
from guard.config import EvaluationConfig
from guard.robustness.attacks import attack_images
from guard.robustness.evaluate import chosen, evaluate
from guard.robustness.verdicts import Verdicts, metrics, share
from guard.seeding import generator
from helpers import CPU

pytestmark = pytest.mark.usefixtures("cheap_attacks")

SUITE = ("pgd5", "mim", "cw", "square", "autoattack")
ORDER = ["pgd5", "mim", "apgd-ce", "apgd-t", "fab-t", "square"]
"""The bounded ones of the suite, from cheap to strong."""
RADII = (0.03, 0.09, 0.2)


def run(victim: Any, **changes: Any) -> Verdicts:
    return evaluate(victim.model, victim.images, config(victim, **changes), 5, CPU)


def whole(victim: Any, *, cascade: bool) -> EvaluationConfig:
    return config(victim, attacks=SUITE, more_eps=(RADII[0], RADII[2]), cascade=cascade)


@pytest.fixture(scope="module")
def verdicts(victim: Any) -> dict[bool, Verdicts]:
    """Of the whole suite at three radii: in a cascade, and not."""
    return {
        cascade: evaluate(victim.model, victim.images, whole(victim, cascade=cascade), 5, CPU)
        for cascade in (True, False)
    }


def test_clean_verdicts_are_the_models_own(victim: Any, verdicts: dict[bool, Verdicts]) -> None:
    expected = victim.model(victim.x).argmax(dim=1) == victim.y
    for found in verdicts.values():
        assert torch.equal(found.clean, expected)
    assert 0 < int((~expected).sum()) < len(expected)


@pytest.mark.parametrize("cascade", [True, False])
def test_every_single_attack_has_its_verdicts(
    cascade: bool, victim: Any, verdicts: dict[bool, Verdicts]
) -> None:
    found = verdicts[cascade]
    bounded = [(eps, name) for eps in RADII for name in ORDER]
    assert list(found.survived) == [(math.inf, "cw"), *bounded]
    for verdict in found.survived.values():
        assert verdict.dtype == torch.bool and verdict.shape == found.clean.shape
        assert not (verdict & ~found.clean).any()


@pytest.mark.parametrize("cascade", [True, False])
def test_what_cannot_be_is_not(cascade: bool, verdicts: dict[bool, Verdicts]) -> None:
    found = verdicts[cascade]
    smaller = found.clean
    for eps in (0.0, *RADII, 10.0):
        robust = found.robust(eps)
        assert not (robust & ~smaller).any()
        for (radius, _), survived in found.survived.items():
            assert radius > eps or not (robust & ~survived).any()
        smaller = robust
    counts = [int(found.robust(eps).sum()) for eps in (0.0, *RADII)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[3]


def test_the_worst_case_is_the_same_in_a_cascade(verdicts: dict[bool, Verdicts]) -> None:
    for eps in RADII:
        assert torch.equal(verdicts[True].robust(eps), verdicts[False].robust(eps))
    assert any(
        not torch.equal(verdicts[True].survived[part], verdicts[False].survived[part])
        for part in verdicts[True].survived
    )


def test_the_figure_of_an_attack_in_a_cascade_is_of_all_before_it(
    verdicts: dict[bool, Verdicts],
) -> None:
    found = verdicts[True]
    for eps in RADII:
        alive = found.clean & (found.distances["cw"] > eps)
        for name in ORDER:
            assert not (found.survived[eps, name] & ~alive).any()
            alive = found.survived[eps, name]
        assert torch.equal(alive, found.robust(eps))


def test_an_evaluation_is_repeatable_and_leaves_no_trace(
    victim: Any, verdicts: dict[bool, Verdicts]
) -> None:
    state = torch.get_rng_state()
    pixels, labels = victim.images.x.clone(), victim.images.y.clone()
    again = evaluate(victim.model, victim.images, whole(victim, cascade=True), 5, CPU)
    assert_same(again, verdicts[True])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(victim.images.x, pixels) and torch.equal(victim.images.y, labels)
    assert all(parameter.requires_grad for parameter in victim.model.parameters())
    assert all(parameter.grad is None for parameter in victim.model.parameters())


@pytest.mark.parametrize(
    ("norm", "attacks"),
    [
        ("Linf", ("pgd5", "margin5", "mim", "square", "autoattack")),
        ("L2", ("pgd5", "margin5", "square", "apgd-ce")),
    ],
)
def test_without_a_radius_robust_is_clean(norm: str, attacks: tuple[str, ...], victim: Any) -> None:
    found = run(victim, eps=0, attacks=attacks, norm=norm, max_samples=8)
    for name in attacks:
        assert torch.equal(found.under(0, name), found.clean)
    assert found.clean.any()


@pytest.mark.parametrize(("norm", "radii"), [("Linf", (0.02, 0.09, 0.3)), ("L2", (0.1, 0.5, 1.5))])
@pytest.mark.parametrize("attack", ["pgd5", "margin5"])
def test_a_larger_ball_is_no_easier(
    norm: str, radii: tuple[float, ...], attack: str, victim: Any
) -> None:
    robust = [
        share(run(victim, eps=eps, attacks=(attack,), norm=norm).robust(eps)) for eps in radii
    ]
    assert robust[0] > robust[1] > robust[2]


@pytest.mark.parametrize("attack", ["pgd5", "fgsm", "margin5", "cw", "square"])
def test_a_model_in_training_mode_is_evaluated_in_evaluation_mode(attack: str, victim: Any) -> None:
    own = config(victim, attacks=(attack, "pgd2"))
    with_dropout = nn.Sequential(victim.model, nn.Dropout(0.9)).train()
    found = evaluate(with_dropout, victim.images, own, 5, CPU)
    assert not any(module.training for module in with_dropout.modules())
    assert_same(found, evaluate(victim.model, victim.images, own, 5, CPU))


def test_verdicts_do_not_depend_on_the_batch_size(victim: Any) -> None:
    changes = {"attacks": ("pgd5", "mim", "cw", "apgd-ce"), "max_samples": 16}
    together = run(victim, batch_size=500, **changes)
    for batch_size in (1, 7):
        parts = run(victim, batch_size=batch_size, **changes)
        assert torch.equal(parts.clean, together.clean)
        for part, survived in together.survived.items():
            assert torch.equal(parts.survived[part], survived)
        torch.testing.assert_close(parts.distances, together.distances, rtol=1e-3, atol=1e-5)


def test_the_seed_reaches_the_attack(victim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def spy(*arguments: Any) -> Tensor:
        seeds.append(arguments[-1])
        return attack_images(*arguments)

    monkeypatch.setattr(guard.robustness.evaluate, "attack_images", spy)
    for seed in (0, 0, 1):
        run(victim, seed=seed)
    assert seeds == [0, 0, 1]


@pytest.mark.parametrize("seed", [0, 1])
def test_max_samples_are_the_same_images_for_every_seed(seed: int, victim: Any) -> None:
    own = config(victim, max_samples=6, seed=seed)
    order = torch.randperm(24, generator=generator(0, "samples"))[:6].sort().values
    assert torch.equal(chosen(victim.images, own).x, victim.images.x[order])
    found = run(victim, max_samples=6, seed=seed)
    assert torch.equal(found.clean, run(victim).clean[order])


@pytest.mark.parametrize("max_samples", [None, 24, 1000])
def test_all_samples_where_there_are_no_more(max_samples: int | None, victim: Any) -> None:
    assert chosen(victim.images, config(victim, max_samples=max_samples)) is victim.images


@pytest.mark.parametrize("attacks", [SUITE, ("deepfool", "pgd5"), ("margin5",)])
@pytest.mark.parametrize("cascade", [True, False])
def test_an_evaluation_of_a_model_that_is_always_wrong(
    attacks: tuple[str, ...], cascade: bool, victim: Any
) -> None:
    images = dataclasses.replace(victim.images, y=(victim.model(victim.x).argmax(dim=1) + 1) % 5)
    own = config(victim, attacks=attacks, cascade=cascade)
    found = metrics(evaluate(victim.model, images, own, 5, CPU), own)
    assert found.pop("num_samples") == 24
    assert not any(name.startswith("distance") for name in found)
    assert len(found) >= 4 and set(found.values()) == {0.0}
