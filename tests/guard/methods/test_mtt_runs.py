"""Runs of trajectory matching: images and a rate in turn, on random experts."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trajectory_matching import matching, synthetic, trajectory

from guard.errors import Diverged
from guard.methods.mtt.matching import LearnedRate, Matching, by_class
from guard.methods.mtt.snapshots import Trajectory
from guard.methods.mtt.trajectory import TrajectoryGradient
from helpers import draws


@pytest.mark.parametrize("lr", [1e-4, 1e-6])
def test_a_learned_rate_moves_to_first_order_as_sgd_with_momentum(lr: float) -> None:
    rate = LearnedRate(0.05, lr)
    value = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([value], lr, momentum=0.5)
    for gradient in torch.randn(20, generator=draws()).tolist():
        before = float(value.detach())
        rate.step(gradient)
        value.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert float(value.detach()) != before
    moved = float(value.detach()) - 0.05
    assert rate.value - 0.05 == pytest.approx(moved, rel=100 * lr)


@pytest.mark.parametrize("gradient", [1e3, -1e3, 1e30, -1e30, math.inf])
def test_a_learned_rate_stays_positive_and_moves_by_a_tenth_at_most(gradient: float) -> None:
    rate = LearnedRate(0.05, 1.0)
    for _ in range(50):
        before = rate.value
        rate.step(gradient)
        assert 0 < rate.value < math.inf
        assert rate.value / before == pytest.approx(math.exp(-math.copysign(0.1, gradient)))


def test_a_learned_rate_can_stay() -> None:
    rate = LearnedRate(0.05, 0.0)
    rate.step(3.0)
    assert rate.value == 0.05


def test_a_run_starts_anywhere_that_it_may_and_aims_some_epochs_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = trajectory(tmp_path)
    run = matching(experts=experts, iterations=30, max_start=3, expert_epochs=2, student_steps=1)
    seen: list[tuple[int, int]] = []
    original = Trajectory.snapshot

    def noted(self: Trajectory, epoch: int, device: torch.device) -> Tensor:
        seen.append((experts.index(self), epoch))
        return original(self, epoch, device)

    monkeypatch.setattr(Trajectory, "snapshot", noted)
    run.run(synthetic())
    starts, targets = seen[::2], seen[1::2]
    assert set(starts) == {(expert, epoch) for expert in (0, 1) for epoch in (0, 1, 2)}
    assert [(expert, epoch + 2) for expert, epoch in starts] == targets


def test_a_run_moves_images_and_rate_by_sgd_with_momentum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every gradient is a known one, and small enough for the images to stay pixels."""
    images = list(torch.randn(3, 12, 3, 8, 8, generator=draws()))
    rates, seen = [1.0, -2.0, 4.0], []

    def gradient(
        loss: Any, theta: Tensor, target: Tensor, u: Tensor, rate: Tensor, steps: int
    ) -> TrajectoryGradient:
        number = len(seen)
        seen.append((u.detach().clone(), float(rate)))
        of_rate = torch.tensor(rates[number])
        return TrajectoryGradient(
            loss=torch.tensor(float(number)), images=images[number], rate=of_rate
        )

    monkeypatch.setattr(Matching, "gradient", property(lambda self: gradient))
    options = {"iterations": 3, "lr_images": 0.01, "lr_rate": 1e-6, "rate": 0.1}
    run = matching(experts=trajectory(tmp_path), max_start=2, **options)
    begin = synthetic() * 0.5
    made = run.run(begin)
    u, rate, metrics = made.u, made.rate, made.metrics
    assert made.labels is None
    expected, velocity = [begin], torch.zeros_like(begin)
    for by_images in images:
        velocity = 0.5 * velocity + by_images
        expected.append(expected[-1] - 0.01 * velocity)
    for (found, _), wanted in zip([*seen, (u, rate)], expected, strict=True):
        torch.testing.assert_close(found, wanted)
    shifts = [1.0, 1.0 + (0.5 - 2), 1.0 + (0.5 - 2) + (0.25 - 1 + 4)]
    reached = [(value - 0.1) / 1e-6 for value in [seen[1][1], seen[2][1], rate]]
    assert rate - 0.1 == pytest.approx(-1e-6 * shifts[-1], rel=1e-3)
    assert reached == pytest.approx([-shift for shift in shifts], abs=0.05)
    assert metrics == {"matching_loss": 2.0}
    assert not u.requires_grad


def test_images_stay_pixels_whatever_the_step(tmp_path: Path) -> None:
    experts = trajectory(tmp_path)
    run = matching(experts=experts, iterations=3, lr_images=1e4, max_start=2, student_steps=2)
    begin = synthetic()
    u = run.run(begin).u
    x = run.pixels(u)
    assert float(x.min()) >= -1e-6 and float(x.max()) <= 1 + 1e-6
    assert float(((x < 1e-6) | (x > 1 - 1e-6)).float().mean()) > 0.2
    assert torch.equal(begin, synthetic()), "the start is not written to"


def test_a_run_repeats_and_leaves_the_model_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    experts = trajectory(tmp_path)
    options = {"iterations": 3, "max_start": 2, "lr_images": 1.0, "lr_rate": 1e-3}
    run = matching(experts=experts, **options)
    state = copy.deepcopy(run.model.state_dict())
    first, again = run.run(synthetic()), run.run(synthetic())
    assert torch.equal(first.u, again.u)
    assert (first.rate, first.metrics) == (again.rate, again.metrics)
    assert not torch.allclose(first.u, replace(run, seed=1).run(synthetic()).u)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())


@pytest.mark.parametrize("rate", [1e30, 1e12])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, rate: float) -> None:
    run = matching(experts=trajectory(tmp_path), iterations=3, max_start=2, rate=rate)
    with pytest.raises(Diverged, match="matching loss became"):
        run.run(synthetic())


def test_rows_of_a_class_become_columns_of_a_set() -> None:
    assert by_class(torch.arange(6), 2).tolist() == [[0, 2, 4], [1, 3, 5]]
