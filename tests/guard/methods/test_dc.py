"""A step of gradient matching: its batches, its networks, its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from gradient_matching import LAYER, gradient_of, matching, network, of_class, pixels, splits, start
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import DSA_OPS, RegularizerConfig
from guard.data.images import TensorImages
from guard.methods.dc import DC
from guard.methods.dc.gradients import ClassGradients, distance
from guard.methods.dc.matching import Matching
from guard.models.batchnorm import batchnorms
from guard.training.losses import TrainingLoss
from guard.training.penalties import Regularizer
from helpers import draws, relative_error


def summed_distance(run: Matching, model: nn.Module, u: Tensor) -> Tensor:
    """What a step descends, by a plain loop, with all real images of a class in its batch."""
    total = torch.zeros(())
    for label in range(3):
        real, synthetic = of_class(run.splits, label), pixels(u)[label]
        y = torch.full((len(real),), label)
        penalty = Regularizer(run.loss.regularizer)(model, real, y, 0, draws())
        target = gradient_of(model, F.cross_entropy(model(real), y) + penalty)
        loss = F.cross_entropy(model(synthetic), y[: len(synthetic)])
        ours = gradient_of(model, loss, create_graph=True)
        total = total + distance(run.config.distance, ours, target).sum()
    return total


def gradient_by_hand(run: Matching, model: nn.Module, u: Tensor) -> Tensor:
    leaf = u.detach().clone().requires_grad_()
    return torch.autograd.grad(summed_distance(run, model, leaf), leaf)[0]


@pytest.mark.parametrize(
    ("ipc", "outer", "inner"),
    [
        (1, 1, 1),
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (40, 40, 15),
        (50, 50, 10),
        (2, 2, 50),
        (25, 25, 20),
        (100, 100, 5),
        (500, 500, 1),
        (2000, 2000, 1),
    ],
)
def test_loops_are_as_published(ipc: int, outer: int, inner: int) -> None:
    assert DC().loops(ipc) == (outer, inner)
    assert DC(outer_loops=3, inner_epochs=0).loops(ipc) == (3, 0)
    assert DC(outer_loops=3).loops(ipc) == (3, inner)
    assert DC(inner_epochs=7).loops(ipc) == (outer, 7)


@pytest.mark.parametrize("regularizer", ["none", "paper-eq15"])
@pytest.mark.parametrize("at_once", [1, 2, 20])
@pytest.mark.parametrize("kind", ["layerwise", "cosine", "squared"])
def test_a_step_fills_the_gradient_of_the_summed_distances(
    kind: str, at_once: int, regularizer: str
) -> None:
    run = matching(distance=kind, classes_at_once=at_once, regularizer=regularizer)
    model, u = network(run), start(run).requires_grad_()
    metrics = run.step(model, u, 0, draws())
    assert relative_error(u.grad, gradient_by_hand(run, model, u)) < 1e-3
    wanted = float(summed_distance(run, model, u).detach()) / 3
    assert metrics == {"matching_distance": pytest.approx(wanted, rel=1e-4)}


def test_a_regularizer_moves_the_images_gradient() -> None:
    plain, penalised = matching(), matching(regularizer="paper-eq15")
    model, u = network(plain), start(plain)
    by_hand = gradient_by_hand(penalised, model, u)
    assert relative_error(gradient_by_hand(plain, model, u), by_hand) > 0.1


@pytest.mark.parametrize("at_once", [1, 2, 20])
@pytest.mark.parametrize("augment", [(), DSA_OPS])
def test_a_class_gets_its_gradient_from_its_own_images(
    augment: tuple[str, ...], at_once: int
) -> None:
    run = matching(splits(12), augment=augment, classes_at_once=at_once, batch_size=5)
    others = splits(12, seed=1)
    assert isinstance(others.train, TensorImages) and isinstance(run.splits.train, TensorImages)
    mixed, y = run.splits.train.x.clone(), others.train.y
    mixed[y == 1] = others.train.x[y == 1]
    changed = replace(run.splits, train=TensorImages(mixed, y))
    model, u = network(run), start(run)
    elsewhere = u.clone()
    elsewhere[1] = start(run, seed=1)[1]

    def found(run: Matching, u: Tensor) -> Tensor:
        u = u.clone().requires_grad_()
        run.step(model, u, 0, draws())
        assert u.grad is not None
        return u.grad

    plain = found(run, u)
    assert plain.flatten(2).norm(dim=2).min() > 0
    for other in (found(replace(run, splits=changed), u), found(run, elsewhere)):
        assert not torch.allclose(other[1], plain[1], rtol=1e-2)
        torch.testing.assert_close(other[[0, 2]], plain[[0, 2]], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_regularizer_warms_up_network_by_network(number: int) -> None:
    warming = RegularizerConfig.named("paper-eq15").override({"weight_warmup_epochs": 2})
    run = matching(distance="squared")
    run.loss = TrainingLoss(warming)
    run.gradients = ClassGradients(run.loss, 1)
    model, u = network(run), start(run).requires_grad_()
    run.step(model, u, number, draws())
    reached = warming.override({"weight_warmup_epochs": 0, "weight": 50 if number == 0 else 100})
    run.loss = TrainingLoss(reached)
    assert relative_error(u.grad, gradient_by_hand(run, model, u)) < 1e-3


def test_a_step_forgets_the_gradient_of_the_one_before() -> None:
    run = matching()
    model, u = network(run), start(run).requires_grad_()
    run.step(model, u, 0, draws())
    assert u.grad is not None
    first = u.grad.clone()
    run.step(model, u, 0, draws())
    assert torch.equal(u.grad, first)


@pytest.mark.parametrize(("wanted", "size"), [(4, 4), (256, 9)])
def test_a_real_batch_is_drawn_without_replacement(wanted: int, size: int) -> None:
    run = matching(splits(9), batch_size=wanted)
    batches = [run.batches(start(run), torch.tensor([2, 0]), seed)[0] for seed in (0, 0, 1)]
    assert batches[0].shape == (2, size, 3, 8, 8)
    for label, rows in zip([2, 0], batches[0], strict=True):
        distances = (rows[:, None] - of_class(run.splits, label)[None]).abs().amax(dim=(2, 3, 4))
        assert sorted((distances == 0).sum(dim=1).tolist()) == [1] * size
        assert len(set(distances.argmin(dim=1).tolist())) == size
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])


def test_every_network_meets_other_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = matching(iterations=3, outer_loops=2, batch_size=4), []
    batches = Matching.batches

    def noted(self: Matching, *args: Any) -> tuple[Tensor, Tensor]:
        seen.append(batches(self, *args))
        return seen[-1]

    monkeypatch.setattr(Matching, "batches", noted)
    run.run()
    assert len(seen) == 3 * 2 * 3
    assert len({float(real.sum()) for real, _ in seen}) == len(seen)


def test_the_smallest_class_bounds_the_batch() -> None:
    data = splits(6)
    assert isinstance(data.train, TensorImages)
    kept = torch.arange(18)[(data.train.y != 1) | (torch.arange(18) < 9)]
    run = matching(replace(data, train=data.train.subset(kept)))
    assert run.batches(start(run), torch.arange(3), 0)[0].shape[:2] == (3, 3)


@pytest.mark.parametrize("op", DSA_OPS)
def test_siamese_operations_hit_the_images_of_a_class_alike_and_classes_differently(
    op: str,
) -> None:
    """All real and synthetic images are the same one before they are augmented."""
    image = splits(1, seed=7).train.subset(torch.tensor([0]))
    assert isinstance(image, TensorImages)
    alike = TensorImages(image.x.expand(12, -1, -1, -1), torch.arange(3).repeat(4))
    run = matching(replace(splits(), train=alike), augment=(op,))
    u = start(run, "real")
    furthest = 0.0
    for seed in range(5):
        real, synthetic = run.batches(u, torch.arange(3), seed)
        assert real.shape == (3, 4, 3, 8, 8) and synthetic.shape == (3, 2, 3, 8, 8)
        first = real[:, :1]
        torch.testing.assert_close(real, first.expand_as(real), rtol=0, atol=1e-5)
        torch.testing.assert_close(synthetic, first.expand_as(synthetic), rtol=0, atol=1e-5)
        furthest = max(furthest, float((real[:1] - real[1:]).abs().max()))
    assert furthest > 0.01, "classes are augmented differently"


def test_without_operations_batches_are_pixels() -> None:
    run = matching()
    u = start(run)
    real, synthetic = run.batches(u, torch.tensor([1]), 0)
    torch.testing.assert_close(synthetic, pixels(u)[[1]])
    assert real.min() >= 0 and real.max() <= 1


@pytest.mark.parametrize("per_class", [16, 20])
def test_batchnorm_sees_a_few_real_images_of_each_class(per_class: int) -> None:
    run = matching(splits(per_class), norm="batch")
    model, seen = network(run), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run.prepare(model, draws())
    (images,) = seen
    assert len(images) == 48 and len(images.flatten(1).unique(dim=0)) == 48
    for label in range(3):
        own = images[16 * label : 16 * label + 16]
        distances = (own[:, None] - of_class(run.splits, label)[None]).abs().amax(dim=(2, 3, 4))
        assert float(distances.min(dim=1).values.max()) == 0
    inputs = model.network[0](LAYER(images)).detach().transpose(0, 1).flatten(1)
    bn = batchnorms(model)[0]
    torch.testing.assert_close(bn.running_mean, inputs.mean(dim=1))
    torch.testing.assert_close(bn.running_var, inputs.var(dim=1, correction=0))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("at_once", [1, 20])
def test_batchnorm_is_frozen_while_it_is_matched(at_once: int) -> None:
    run = matching(splits(16), norm="batch", classes_at_once=at_once)
    model, twin, u = network(run), network(run), start(run).requires_grad_()
    run.step(model, u, 0, draws())
    run.prepare(twin, draws())
    for found, wanted in zip(batchnorms(model), batchnorms(twin), strict=True):
        torch.testing.assert_close(found.running_mean, wanted.running_mean)
        torch.testing.assert_close(found.running_var, wanted.running_var)
    assert relative_error(u.grad, gradient_by_hand(run, twin.eval(), u)) < 1e-3


def test_without_batchnorm_a_network_sees_no_statistics() -> None:
    run = matching()
    model = network(run).train()
    model.register_forward_hook(lambda *_: pytest.fail("nothing needs statistics"))
    run.prepare(model, draws())
    assert not model.training
