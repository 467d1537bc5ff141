from __future__ import annotations

from typing import Any

import pytest

from builders import configured
from guard.config import RegularizerConfig
from guard.trial import TrialConfig
from tune.results.wording import elsewhere, joined, penalty, settings, title, told_apart

GUARD = "curvature (λ = 0.1, h = 0.1)"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, f"sre2l, IPC 10, {GUARD}"),
        ({"ipc": 1, "regularizer.weight": 0}, "sre2l, IPC 1, none"),
        ({"regularizer.kind": "gradient-norm"}, "sre2l, IPC 10, gradient-norm (λ = 0.1)"),
        ({"regularizer": "pgd-at"}, "sre2l, IPC 10, pgd-at"),
        ({"method": "whole", "regularizer": "none"}, "whole, none"),
    ],
)
def test_a_title_says_place_and_penalty(fields: dict[str, Any], text: str) -> None:
    assert title(configured(fields)) == text


def test_a_title_says_once_what_sets_a_trial_apart() -> None:
    params = {
        "ipc": 10,
        "regularizer": "curvature",
        "regularizer.h": 0.1,
        "sre2l.bn_weight": 0.123456,
        "seed": 3,
    }
    assert title(configured(), params) == (
        f"sre2l, IPC 10, {GUARD}, sre2l.bn_weight = 0.1235, seed = 3"
    )


def test_what_says_nothing_leaves_no_comma() -> None:
    assert joined("a", "", "b") == "a, b"
    assert joined("", "") == settings({}) == ""


def with_weights(*weights: float) -> list[TrialConfig]:
    """Controls that differ in a weight, at as many IPCs as there are."""
    return [
        configured({"ipc": n, "sre2l.bn_weight": weight}, control=True)
        for n, weight in enumerate(weights, 1)
    ]


@pytest.mark.parametrize(
    ("weights", "texts", "rest"),
    [
        ((0.1, 0.1), ["", ""], None),
        ((0.1, 0.2), ["0.1", "0.2"], None),
        ((0.1, 0.1, 0.2), ["0.1", "0.1", "0.2"], None),
        ((0.1, 0.1, 0.2, 0.1), ["", "", "0.2", ""], "0.1"),
    ],
)
def test_what_is_not_as_usual_is_named(
    weights: tuple[float, ...], texts: list[str], rest: str | None
) -> None:
    field = "sre2l.bn_weight = "
    configs = with_weights(*weights)
    assert [text.removeprefix(field) for text in told_apart(configs)] == texts
    assert elsewhere(configs) == (f"Where nothing else is said: {field}{rest}." if rest else "")


def test_what_the_kind_of_penalty_decides_is_not_named() -> None:
    kinds = [{"regularizer.weight_warmup_epochs": 5}, {"regularizer": "trades"}]
    assert told_apart([configured(own) for own in kinds]) == ["", ""]


def test_only_configs_that_read_a_field_say_what_is_usual() -> None:
    guards = [{"regularizer.power": power} for power in (2, 2, 2, 1)]
    names = ["none", "released-cifar", "trades", "cure"]
    fields = [*guards, *({"regularizer": name} for name in names)]
    configs = [configured({**own, "ipc": n}) for n, own in enumerate(fields, 1)]
    found = told_apart(configs)
    assert found == ["", "", "", "regularizer.power = 1", "", "", "", ""]
    assert elsewhere(configs) == "Where nothing else is said: regularizer.power = 2."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "pgd-at"),
        ({"weight": 7, "h": 7}, "pgd-at"),
        ({"eps": 2 / 255, "steps": 3}, "pgd-at (eps = 2/255, steps = 3)"),
        ({"ascent": "ls-pgd"}, "pgd-at (ascent = ls-pgd)"),
        ({"steps": 1, "step_size": 1.25}, "fgsm-rs"),
        ({"kind": "trades", "weight": 3, "steps": 10}, "trades (λ = 3)"),
        ({"kind": "mart", "weight": 5}, "mart (λ = 5, steps = 7)"),
    ],
)
def test_an_attack_is_the_nearest_named_one_and_what_sets_it_apart(
    fields: dict[str, Any], words: str
) -> None:
    config = RegularizerConfig(**{"kind": "adversarial", **fields})
    assert penalty(config) == words


def test_what_the_words_of_an_attack_say_is_said_once() -> None:
    configs = [configured({"regularizer": "pgd-at", "regularizer.eps": eps}) for eps in (0.1, 0.2)]
    assert told_apart(configs) == ["", ""]
    params = {"regularizer.eps": 0.1, "seed": 1}
    assert title(configs[0], params) == "sre2l, IPC 10, pgd-at (eps = 0.1), seed = 1"
