"""Weights, warm-ups, fractions, and what each kind of penalty reads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from penalised import DEFINED, KINDS, MEAN, STD, bn_net, penalty, samples, smooth_net
from torch import nn

from guard.config import RegularizerConfig
from guard.config.regularizers import KINDS as ALL
from guard.config.regularizers import risen
from guard.config.schema import field_names
from guard.errors import ConfigError
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier
from guard.training.losses import ADVERSARIAL_LOSSES
from guard.training.penalties import PENALTIES, Regularizer
from helpers import draws, number


@pytest.mark.parametrize(
    "config",
    [{"weight": 0}, {"kind": "none"}, {"kind": "none", "weight": 5}, {"weight": 0, "h": 3}],
)
def test_no_weight_or_no_kind_is_no_penalty(config: dict[str, Any]) -> None:
    model, (x, y) = smooth_net(), samples()
    model.register_forward_hook(lambda *_: pytest.fail("an inactive penalty runs the model"))
    value = penalty(model, x, y, **config)
    assert value.shape == () and float(value) == 0
    assert value.dtype == x.dtype


def test_the_weight_multiplies() -> None:
    model, (x, y) = smooth_net(), samples()
    one, seven = (number(penalty(model, x, y, weight=weight)) for weight in (1, 7))
    assert seven == pytest.approx(7 * one, rel=1e-12)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_warms_up(kind: str, epoch: int, share: float) -> None:
    model, (x, y) = smooth_net(), samples()
    options = {"kind": kind, "weight": 3}
    value = penalty(model, x, y, epoch=epoch, weight_warmup_epochs=4, **options)
    full = penalty(model, x, y, **options)
    assert number(value) == pytest.approx(share * number(full), rel=1e-12)


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.2), (2, 0.6), (4, 1.0), (30, 1.0)])
@pytest.mark.parametrize("kind", ["curvature", "loss-difference"])
def test_the_step_warms_up(kind: str, epoch: int, share: float) -> None:
    model, (x, y) = smooth_net(), samples()
    value = penalty(model, x, y, kind=kind, h=2, epoch=epoch, h_warmup_epochs=5)
    expected = penalty(model, x, y, kind=kind, h=2 * share)
    assert number(value) == pytest.approx(number(expected), rel=1e-12)


def test_a_ramp_reaches_one_in_the_last_warmup_epoch() -> None:
    assert [risen(epoch, 4) for epoch in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [risen(epoch, 0) for epoch in range(2)] == [1, 1]


def test_the_step_of_cure_rises_as_in_its_code() -> None:
    cure = Regularizer(RegularizerConfig.named("cure"))
    steps = [cure.step_length(samples()[0], epoch) for epoch in range(7)]
    assert steps == [0.1, 0.4, 0.8, 1.8, 3, 3, 3]
    with pytest.raises(ConfigError, match=r"^h_ramp: needs h_warmup_epochs = 0, got .* = 2"):
        RegularizerConfig(h_ramp=(0.1,), h_warmup_epochs=2)


def test_a_step_that_is_listed_is_in_the_units_of_h() -> None:
    x = samples()[0]
    config = RegularizerConfig(h=2, h_ramp=(0.5,), units="eps")
    first, later = (Regularizer(config, eps=0.1).step_length(x, epoch) for epoch in (0, 1))
    assert later == pytest.approx(4 * first) == pytest.approx(0.2 * math.sqrt(x[0].numel()))


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.1, 1), (0.25, 3), (0.5, 5), (0.99, 10), (1, 10)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fraction_runs_the_model_on_its_ceiling(kind: str, fraction: float, count: int) -> None:
    model, (x, y), sizes = smooth_net(), samples(10), set()
    model.register_forward_hook(lambda module, inputs, output: sizes.add(len(inputs[0])))
    penalty(model, x, y, kind=kind, fraction=fraction)
    assert sizes == {count}


def test_a_fraction_is_drawn_from_the_generator() -> None:
    model, (x, y) = smooth_net(), samples(10)
    values = [number(penalty(model, x, y, fraction=0.3, seed=seed)) for seed in (1, 1, 2, 3)]
    assert values[0] == values[1]
    assert len(set(values)) == 3
    generator = draws()
    regularizer = Regularizer(RegularizerConfig(weight=1, fraction=0.3))
    drawn = {number(regularizer(model, x, y, 0, generator)) for _ in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_fraction_draws_every_sample_equally_often(kind: str) -> None:
    model, (x, y), generator = smooth_net(), samples(4), draws()
    regularizer = Regularizer(RegularizerConfig(kind=kind, weight=1, fraction=0.25))
    alone = [number(penalty(model, x[i : i + 1], y[i : i + 1], kind=kind)) for i in range(4)]
    seen = [number(regularizer(model, x, y, 0, generator)) for _ in range(400)]
    counts = [sum(math.isclose(value, one, rel_tol=1e-9) for value in seen) for one in alone]
    assert sum(counts) == 400
    assert min(counts) > 70 and max(counts) < 130


def test_a_fraction_is_unbiased() -> None:
    model, (x, y), generator = smooth_net(), samples(6), draws()
    regularizer = Regularizer(RegularizerConfig(weight=1, fraction=0.5))
    full = number(penalty(model, x, y))
    seen = torch.tensor([number(regularizer(model, x, y, 0, generator)) for _ in range(400)])
    error = float(seen.std()) / math.sqrt(len(seen))
    assert abs(float(seen.mean()) - full) < 3 * error
    assert error < 0.1 * full


PENALISING = {
    name: values
    for name, values in RegularizerConfig.NAMED.items()
    if not RegularizerConfig(**values).attacks
}
CONFIGS = {
    **PENALISING,
    "eps-units": {"units": "eps", "h": 1.0},
    "power-1": {"power": 1},
    "part": {"fraction": 0.3, "weight_warmup_epochs": 2, "h_warmup_epochs": 3},
    "frozen-batch": {"bn": "frozen-batch", "fraction": 0.5},
    "train": {"bn": "train"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_gives_a_repeatable_finite_penalty(name: str) -> None:
    model = Classifier(Normalize(MEAN, STD), bn_net()).float()
    (x, y), before = samples(8), torch.get_rng_state()
    regularizer = Regularizer(RegularizerConfig(**CONFIGS[name]), eps=0.05)
    values = [regularizer(model, x.float(), y, 1, draws(seed)) for seed in (4, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert values[0].shape == () and values[0].isfinite() and values[0] >= 0
    assert torch.equal(values[0], values[1])
    assert bool(values[0] > 0) is regularizer.config.active
    if regularizer.config.active:
        values[0].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_kind_has_a_penalty_or_an_attack() -> None:
    assert set(PENALTIES) == set(KINDS) >= set(DEFINED)
    assert {"none", *PENALTIES, *ADVERSARIAL_LOSSES} == set(ALL)
    for kind in ALL:
        assert RegularizerConfig(kind=kind).attacks is (kind in ADVERSARIAL_LOSSES)


BASE = {"h": 0.3, "weight": 2.0}
OTHER_VALUES = {
    "weight": 5.0,
    "h": 1.1,
    "units": "normalized",
    "power": 1,
    "direction": "sign",
    "scale": "batch-mean",
    "bn": "frozen-batch",
    "fraction": 0.4,
    "weight_warmup_epochs": 4,
    "h_warmup_epochs": 4,
    "h_ramp": [0.9],
    "steps": 3,
    "step_size": 0.7,
    "eps": 0.3,
}
SEARCHING = {"ascent", "candidates", "growth"}
"""Fields of an attack that keeps its perturbations (`guard.training.line_search`)."""


def test_every_field_is_tried() -> None:
    assert set(OTHER_VALUES) == set(field_names(RegularizerConfig)) - {"kind"} - SEARCHING


@pytest.mark.parametrize("field", OTHER_VALUES)
@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_a_kind_reads_the_fields_that_it_says_it_uses(kind: str, field: str) -> None:
    model, (x, y) = Classifier(Normalize(MEAN, STD), bn_net()).double(), samples()
    before, after = (
        number(penalty(model, x, y, **{**BASE, "kind": kind, **change}))
        for change in ({}, {field: OTHER_VALUES[field]})
    )
    used = field in RegularizerConfig(kind=kind).fields_used()
    assert (not math.isclose(before, after, rel_tol=1e-9)) is used


@pytest.mark.parametrize("kind", ["curvature", "gradient-norm"])
@pytest.mark.parametrize("power", [1, 2])
def test_gradients_of_the_batch_mean_are_of_the_whole_batch_whatever_the_fraction(
    kind: str, power: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64).repeat(8, 1, 1, 1)
    y = torch.ones(8, dtype=torch.long)
    values = [
        Regularizer(
            RegularizerConfig(kind=kind, power=power, scale="batch-mean", fraction=fraction)
        )(model, x, y, 0, draws())
        for fraction in (0.25, 1.0)
    ]
    torch.testing.assert_close(values[0], values[1])
