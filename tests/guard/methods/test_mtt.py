"""A step of trajectory matching: its batches, its labels, its gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trajectory_matching import SPEC, convnet, experts_at, matching, synthetic, theta_at

import guard.methods.mtt.matching as mtt
from guard.config import DSA_OPS
from guard.data.dsa import DsaDraw, apply_dsa
from guard.methods.mtt.trajectory import adjoint, call, tesla, unroll
from helpers import draws

LABELS = torch.arange(4).repeat_interleave(3)


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
