"""Trajectory matching, on random experts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from trajectory_matching import SNAPSHOTS, SPEC, convnet, matching_of

import guard.methods.mtt.matching as mtt
from guard.config import DSA_OPS
from guard.data.dsa import DsaDraw, apply_dsa
from guard.errors import Diverged
from guard.methods.mtt import MTT
from guard.methods.mtt.matching import LearnedRate, Matching, by_class
from guard.methods.mtt.snapshots import Trajectory
from guard.methods.mtt.trajectory import (
    TrajectoryGradient,
    adjoint,
    call,
    flat_parameters,
    tesla,
    unroll,
)
from guard.models.input_layer import Normalize
from helpers import draws

LABELS = torch.arange(4).repeat_interleave(3)


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


def experts_at(folder: Path, *theta: Tensor) -> list[Trajectory]:
    """Experts with snapshots (epochs + 1, P)."""
    experts = []
    for number, rows in enumerate(theta):
        (folder / str(number)).mkdir()
        save_file({"theta": rows}, folder / str(number) / SNAPSHOTS)
        experts.append(Trajectory(folder / str(number)))
    return experts


def matching(ipc: int = 3, experts: list[Trajectory] | None = None, **config: Any) -> Any:
    settings = MTT(**{"student_steps": 5, "rate": 0.1, **config})
    return matching_of(settings, convnet(), experts or [], SPEC, ipc)


def synthetic(count: int = 12, seed: int = 3) -> Tensor:
    """u, images in [0, 1] behind the first layer, class after class."""
    x = torch.rand(count, 3, 8, 8, generator=draws(seed))
    layer: Tensor = Normalize(SPEC.mean, SPEC.std)(x)
    return layer


def theta_at(seed: int = 0, count: int = 1) -> Tensor:
    """Random parameters of the convnet, (count, P)."""
    start = flat_parameters(convnet())
    return start + 0.1 * torch.randn(count, len(start), generator=draws(seed))


@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_the_loss_of_a_step_is_a_pure_function(augment: tuple[str, ...]) -> None:
    generator, before = draws(), torch.get_rng_state()
    loss = matching(augment=augment, batch_size=4).step_loss(LABELS, generator)
    state = generator.get_state()
    (theta, other), u = theta_at(count=2), synthetic()
    first = [float(loss(theta, u, number)) for number in range(5)]
    assert [float(loss(theta, u, number)) for number in reversed(range(5))] == first[::-1]
    assert float(loss(other, u, 0)) != first[0] != float(loss(theta, u + 0.1 * u**2, 0))
    assert len(set(first)) == 5
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)


def batches_of(run: Any, seed: int = 0) -> list[list[int]]:
    """Which images each student step uses, from where its gradient is not 0."""
    loss, u, theta = run.step_loss(LABELS, draws(seed)), synthetic(), theta_at()[0]
    found = []
    for number in range(run.config.student_steps):
        leaf = u.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(theta, leaf, number), leaf)
        found.append(gradient.flatten(1).any(dim=1).nonzero().flatten().tolist())
    return found


@pytest.mark.parametrize(
    ("size", "sizes"), [(None, [12] * 6), (4, [4] * 6), (5, [5, 5, 2] * 2), (50, [12] * 6)]
)
def test_batches_are_chunks_of_fresh_permutations(size: int | None, sizes: list[int]) -> None:
    run = matching(batch_size=size, student_steps=6, augment=())
    batches = batches_of(run)
    assert [len(batch) for batch in batches] == sizes
    length = -(-12 // (size or 12))
    passes = [batches[i : i + length] for i in range(0, 6, length)]
    for one in passes:
        assert sorted(index for batch in one for index in batch) == list(range(12))
    if length > 1:
        assert passes[0] != passes[1]
        assert batches != batches_of(run, seed=1)
    assert batches == batches_of(run)


def test_labels_are_the_classes_in_turn() -> None:
    assert matching().targets(synthetic(), theta_at()[0]).tolist() == LABELS.tolist()


def test_a_step_is_the_cross_entropy_of_its_images_and_their_labels() -> None:
    run, u, theta = matching(batch_size=5, augment=()), synthetic(), theta_at()[0]
    loss = run.step_loss(LABELS, draws())
    student = convnet()
    nn.utils.vector_to_parameters(theta, student.parameters())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    for number, batch in enumerate(batches_of(run)):
        expected = F.cross_entropy(student(u[batch] * std + mean), LABELS[batch])
        assert float(loss(theta, u, number)) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_step_is_augmented_image_by_image_as_the_network_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Tensor, DsaDraw, Tensor]] = []

    def noted(x: Tensor, draw: DsaDraw) -> Tensor:
        result = apply_dsa(x, draw)
        seen.append((x, draw, result))
        return result

    monkeypatch.setattr(mtt, "apply_dsa", noted)
    run = matching(batch_size=5, student_steps=30)
    loss, u = run.step_loss(LABELS, draws()), synthetic()
    values = [float(loss(theta_at()[0], u, number)) for number in range(30)]
    assert {draw.op for _, draw, _ in seen} == set(DSA_OPS)
    assert all(draw.count == len(x) for x, draw, _ in seen)
    assert all(len(draw.uniform.unique(dim=0)) == len(x) for x, draw, _ in seen)
    x, _, result = seen[0]
    assert not torch.equal(x, result)
    images, labels = run.pixels(result), LABELS[where(x, u)]
    expected = F.cross_entropy(call(run.model, theta_at()[0], images), labels)
    assert values[0] == pytest.approx(float(expected), rel=1e-5)


def where(x: Tensor, u: Tensor) -> Tensor:
    """Of rows of u, each row of x."""
    return (u[None] - x[:, None]).abs().amax(dim=(2, 3, 4)).argmin(dim=1)


def test_soft_labels_are_the_target_experts_probabilities_of_the_images_now() -> None:
    run, (theta, other) = matching(soft_labels=True), theta_at(count=2)
    u = synthetic().requires_grad_()
    expert = convnet().eval()
    nn.utils.vector_to_parameters(theta, expert.parameters())
    found = run.targets(u, theta)
    torch.testing.assert_close(found, expert(run.pixels(u)).softmax(dim=1).detach())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12))
    assert not found.requires_grad
    assert not torch.allclose(run.targets(u, other), found, rtol=0.01)
    assert not torch.allclose(run.targets(synthetic(seed=4), theta), found, rtol=0.01)


def test_soft_labels_reach_the_loss() -> None:
    run, u, (theta, other) = matching(soft_labels=True, augment=()), synthetic(), theta_at(count=2)
    soft = run.targets(u, theta)
    logits = call(run.model, other, run.pixels(u))
    expected = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert float(run.step_loss(soft, draws())(other, u, 0)) == pytest.approx(float(expected))


def test_mean_labels_are_of_all_experts_at_the_last_matched_epoch(tmp_path: Path) -> None:
    theta = theta_at(count=12).view(2, 6, -1)
    experts = experts_at(tmp_path, *theta)
    run = matching(experts=experts, soft_labels=True, max_start=3, expert_epochs=2)
    u = synthetic()
    labels = [run.targets(u, rows[4]) for rows in theta]
    torch.testing.assert_close(run.mean_labels(u), (labels[0] + labels[1]) / 2)
    assert not torch.allclose(labels[0], labels[1], rtol=0.01)


def problem(run: Any) -> list[Any]:
    """Arguments of a trajectory gradient, through the real loss of a step."""
    theta, target = theta_at(count=2)
    loss = run.step_loss(run.targets(synthetic(), target), draws())
    return [loss, theta, target, synthetic(), torch.tensor(0.1), run.config.student_steps]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("op", DSA_OPS)
def test_the_adjoint_is_the_unrolled_gradient_under_augmentation(op: str, soft: bool) -> None:
    run = matching(augment=(op,), batch_size=5, student_steps=8, soft_labels=soft)
    found, wanted = (gradient(*problem(run)) for gradient in (adjoint, unroll))
    assert float(found.loss) == pytest.approx(float(wanted.loss), rel=1e-5)
    assert float(found.rate) == pytest.approx(float(wanted.rate), rel=1e-4)
    assert float((found.images - wanted.images).norm() / wanted.images.norm()) < 1e-4
    assert float(wanted.loss) != pytest.approx(1, abs=1e-4), "the student moved"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"gradient": "unroll"}, unroll),
        ({"gradient": "adjoint"}, adjoint),
        ({"gradient": "tesla"}, tesla),
    ],
)
def test_the_gradient_is_the_one_that_is_named(
    config: dict[str, Any], expected: Callable[..., Any]
) -> None:
    assert matching(**config).gradient is expected


def test_the_published_half_is_exactly_half() -> None:
    whole, half = (matching(gradient="tesla", published_half=flag) for flag in (False, True))
    one, other = whole.gradient(*problem(whole)), half.gradient(*problem(half))
    assert torch.equal(other.images, one.images / 2) and one.images.any()
    assert torch.equal(other.rate, one.rate) and torch.equal(other.loss, one.loss)


def trajectory(folder: Path, epochs: int = 6) -> list[Trajectory]:
    return experts_at(folder, *theta_at(count=2 * epochs + 2).view(2, epochs + 1, -1))


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
