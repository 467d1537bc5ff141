"""DATM: windows of epochs that grow, labels that are learned, images that are averaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laboratory import Lab, stages
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from trajectory_matching import convnet, matching, synthetic, trajectory

from guard.checkpoint import Checkpoint
from guard.data.datasets import load_data
from guard.methods.mtt import DATM, MTT
from guard.methods.mtt.labels import LearnedLabels, first_logits, known_first, packed, unpacked
from guard.methods.mtt.matching import Matching
from guard.methods.mtt.snapshots import Trajectory
from guard.methods.mtt.trajectory import GRADIENTS, call, flat_parameters
from guard.methods.start import random_choice
from guard.models.saving import load_model
from helpers import CPU, draws

LABELLED = {"lr_labels": 3.0, "max_start": 2, "student_steps": 2, "lr_images": 0.5}


def test_max_start_grows_evenly_to_its_value() -> None:
    config = MTT(max_start=20, first_max_start=10, growth_iterations=100)
    walk = config.walk(10)
    found = [config.max_start_at(number, walk) for number in (0, 9, 10, 55, 99, 100, 5000)]
    assert found == [10, 10, 11, 15, 19, 20, 20]
    assert {MTT().max_start_at(number, MTT().walk(1)) for number in (0, 9)} == {20}


def test_trajectories_start_inside_of_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = matching(
        experts=trajectory(tmp_path),
        iterations=40,
        min_start=1,
        first_max_start=2,
        max_start=4,
        growth_iterations=20,
        expert_epochs=1,
        student_steps=1,
    )
    seen: list[int] = []
    original = Trajectory.snapshot

    def noted(self: Trajectory, epoch: int, device: torch.device) -> Tensor:
        seen.append(epoch)
        return original(self, epoch, device)

    monkeypatch.setattr(Trajectory, "snapshot", noted)
    run.run(synthetic())
    starts = seen[::2]
    assert set(starts[:10]) == {1} and set(starts[10:20]) <= {1, 2}
    assert set(starts[20:]) == {1, 2, 3}


def test_images_and_logits_are_packed_side_by_side() -> None:
    u, logits = torch.randn(5, 3, 2, 2, generator=draws()), torch.randn(5, 4, generator=draws(1))
    rows = packed(u, logits)
    assert rows.shape == (5, 16)
    for found, wanted in zip(unpacked(rows[1:3], u.shape), (u[1:3], logits[1:3]), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_labels_have_the_gradient_of_the_same_walk(name: str, tmp_path: Path) -> None:
    """Against the walk written out, with labels of their own: exact, or TESLA's."""
    run = matching(experts=trajectory(tmp_path), augment=(), **LABELLED)
    u, logits = synthetic(), torch.randn(12, 4, generator=draws(2))
    theta, target = (run.experts[0].snapshot(epoch, CPU) for epoch in (0, 1))
    rate = torch.tensor(0.05)
    loss = run.step_loss(run.classes, draws(3))
    found = GRADIENTS[name](loss, theta, target, packed(u, logits), rate, 2)
    of_images, of_labels = unpacked(found.images, u.shape)
    x, y = u.clone().requires_grad_(), logits.clone().requires_grad_()
    walked = theta.clone().requires_grad_()
    start = theta
    sums: Any = 0
    for _ in range(2):
        own = walked.detach().requires_grad_() if name == "tesla" else walked
        cost = F.cross_entropy(call(run.model.network, own, x), y.softmax(dim=1))
        (g,) = torch.autograd.grad(cost, own, create_graph=True)
        sums, walked = sums + g, walked - rate * g
    end = start - rate * sums if name == "tesla" else walked
    total = (end - target).square().sum() / (start - target).square().sum()
    by_x, by_y = torch.autograd.grad(total, (x, y))
    torch.testing.assert_close(of_images, by_x, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(of_labels, by_y, rtol=1e-3, atol=1e-6)
    assert float(by_y.abs().max()) > 0


def test_labels_move_by_sgd_with_momentum() -> None:
    labels = LearnedLabels(torch.zeros(3, 2), 0.5)
    gradients, velocity, expected = torch.randn(4, 3, 2, generator=draws()), 0.0, torch.zeros(3, 2)
    for gradient in gradients:
        labels.step(gradient)
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.5 * velocity
    torch.testing.assert_close(labels.logits.detach(), expected)
    torch.testing.assert_close(labels.probabilities.sum(dim=1), torch.ones(3))


def test_labels_start_as_what_the_experts_say_that_are_right() -> None:
    model, u, y = convnet(), synthetic(), torch.arange(4).repeat_interleave(3)
    thetas = [flat_parameters(model) * scale for scale in (1.0, -2.0, 0.5, 3.0)]
    thetas = [t + torch.randn(t.shape, generator=draws(n)) for n, t in enumerate(thetas)]
    found = first_logits(model, thetas, u, y).numpy()
    every = np.stack([call(model.network, theta, u).detach().numpy() for theta in thetas])
    for row in range(12):
        right = [e for e in range(4) if every[e, row].argmax() == int(y[row])] or range(4)
        np.testing.assert_allclose(found[row], every[list(right), row].mean(axis=0), rtol=1e-4)


def test_the_set_is_the_moving_average_of_the_images(tmp_path: Path) -> None:
    experts = trajectory(tmp_path)
    plain = matching(experts=experts, max_start=2, lr_images=5.0, student_steps=2, iterations=1)
    start = synthetic()
    walked = [start]
    for number in (1, 2, 3):
        own = replace(plain, config=replace(plain.config, iterations=number))
        walked.append(own.run(start).u)
    expected = walked[0]
    for u in walked[1:]:
        expected = 0.7 * expected + 0.3 * u
    averaged = replace(plain, config=replace(plain.config, iterations=3, image_ema=0.7))
    torch.testing.assert_close(averaged.run(start).u, expected)


def test_learned_labels_are_distributions_that_have_moved(tmp_path: Path) -> None:
    run = matching(experts=trajectory(tmp_path), iterations=3, **LABELLED)
    made = run.run(synthetic())
    assert made.labels is not None and made.labels.shape == (12, 4)
    torch.testing.assert_close(made.labels.sum(dim=1), torch.ones(12))
    first = run.learned_labels(synthetic()).probabilities
    assert not torch.allclose(made.labels, first)
    hard = matching(experts=run.experts, iterations=3, **{**LABELLED, "lr_labels": 0.0})
    assert not torch.equal(hard.run(synthetic()).u, made.u)


def test_a_run_that_is_taken_up_again_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**LABELLED, "image_ema": 0.5, "first_max_start": 1, "growth_iterations": 3}
    run = matching(experts=trajectory(tmp_path), iterations=5, **settings)
    whole = run.run(synthetic())
    place = tmp_path / "kept"
    original, calls = Matching.step_loss, []

    def stopped(self: Matching, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Matching, "step_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.run(synthetic(), Checkpoint(place, 0))
    monkeypatch.setattr(Matching, "step_loss", original)
    again = run.run(synthetic(), Checkpoint(place, 0))
    assert torch.equal(again.u, whole.u) and again.rate == whole.rate
    assert again.labels is not None and whole.labels is not None
    assert torch.equal(again.labels, whole.labels)


def test_images_start_as_those_that_the_first_expert_gets_right(lab: Lab) -> None:
    settings = {"lr_images": 1e-12, "image_ema": 0.0, "start_known": True}
    config = lab.config("datm", **{f"datm.{path}": value for path, value in settings.items()})
    lab.run(config)
    (stage,) = stages(config, "trajectory-matching")
    expert = stages(config, "expert")[0]
    folder = lab.store.path(expert)
    model, train = load_model(folder).train(), load_data(config.data).train
    last = config.datm.walk(config.ipc).epochs_needed
    theta = Trajectory(folder).snapshot(last, CPU)
    known = known_first(model, theta, train, CPU)
    x, y = next(train.batches(len(train), CPU))
    right = call(model.network, theta, model.normalize(x)).argmax(dim=1) == y
    assert torch.equal(known, right) and 0 < int(right.sum()) < len(right)
    made = load_file(lab.store.path(stage) / "images.safetensors")["images"]
    for label in range(4):
        own = (y == label) & right
        count = min(int(own.sum()), len(made))
        for image in made[:count, label]:
            assert float((x[own] - image).abs().flatten(1).amax(dim=1).min()) < 1e-4


def test_others_follow_where_too_few_are_known(lab: Lab) -> None:
    splits = load_data(lab.config("datm").data)
    known = torch.zeros(len(splits.train), dtype=torch.bool)
    known[(splits.train.y == 1).nonzero().flatten()[:3]] = True
    chosen = random_choice(splits, 5, 0, first=known)
    assert known[chosen[1]].tolist() == [True] * 3 + [False] * 2
    assert torch.equal(chosen[0], random_choice(splits, 5, 0)[0])


def test_the_papers_numbers_are_where_they_belong() -> None:
    ten, fifty = DATM(), DATM.named("cifar10-50")
    assert (ten.student_steps, ten.max_start, ten.first_max_start) == (80, 20, 10)
    assert (ten.lr_labels, ten.image_ema, ten.growth_iterations) == (2, 0.9995, 1000)
    assert (fifty.max_start, fifty.first_max_start, fifty.lr_images) == (40, 20, 1000)
    assert DATM.named("cifar10-1").max_start_at(0, DATM.named("cifar10-1").walk(1)) == 4
