"""Distribution matching: its losses, and a step against one that is written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recovering import SPEC
from torch import Tensor
from torch.nn import functional as F

from guard.config import ModelConfig, RegularizerConfig
from guard.data.dsa import apply_dsa, draw_dsa
from guard.data.images import Splits, TensorImages
from guard.data.tiles import enlarged
from guard.errors import DataError
from guard.methods.dm import DM, NetworksConfig
from guard.methods.dm.losses import (
    characteristic,
    hardest_first,
    mean_distance,
    supervised_contrast,
)
from guard.methods.dm.matching import Matching
from guard.models.input_layer import input_layer
from guard.models.networks import build_model, penultimate
from guard.seeding import derive, generator
from guard.training.losses import TrainingLoss
from helpers import CPU, draws

MODEL = ModelConfig(name="convnet", width=5, depth=2)
NONE, PGD = (RegularizerConfig.named(name) for name in ("none", "pgd-at"))
QUEUE = NetworksConfig(initial=2, steps=2, batch_size=16, every=2, most=3)


def image_set() -> TensorImages:
    y = torch.arange(4).repeat(10)
    shape = (len(y), 3, 8, 8)
    return TensorImages(torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws(3)), y)


def matching(ipc: int = 2, eps: float = 0.1, model: ModelConfig = MODEL, **config: Any) -> Matching:
    images = image_set()
    own = DM(**{"iterations": 2, "batch_size": 6, "augment": (), "model": model, **config})
    return Matching(
        config=own,
        model_config=model,
        loss=TrainingLoss(NONE, eps, own.adversary),
        splits=Splits(spec=SPEC, train=images, validation=images, test=images, sha256=""),
        layer=input_layer(model, SPEC),
        ipc=ipc,
        seed=0,
        device=CPU,
    )


def interrupted(made: Matching, last: int) -> list[int]:
    """Have a run stop where it draws for so many iterations; those that it has drawn for, as they
    come."""
    calls: list[int] = []
    draw = made.networks.draw

    def stopped(iteration: int) -> Any:
        calls.append(iteration)
        if len(calls) == last:
            raise KeyboardInterrupt
        return draw(iteration)

    made.networks.draw = stopped  # type: ignore[method-assign]
    return calls


@pytest.mark.parametrize("kind", ["squared", "absolute"])
def test_the_distance_is_that_of_the_mean_features(kind: str) -> None:
    ours, theirs = torch.randn(2, 3, 7, generator=draws(), dtype=torch.float64).numpy()
    expected = []
    for a, b in zip(ours, theirs, strict=True):
        steps = [x - y for x, y in zip(a, b, strict=True)]
        squared, absolute = sum(s * s for s in steps), sum(abs(s) for s in steps)
        expected.append(squared if kind == "squared" else (absolute / 2) ** 2)
    found = mean_distance(kind, torch.from_numpy(ours), torch.from_numpy(theirs))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("far", [0.0, 1.0])
def test_characteristic_functions_differ_in_amplitude_and_phase(far: float) -> None:
    """NCFM's formula, with complex numbers."""
    ours, theirs = torch.randn(2, 6, 5, generator=draws(), dtype=torch.float64)
    theirs = ours + far * (theirs - ours)
    t = torch.randn(9, 5, generator=draws(1), dtype=torch.float64)
    values = []
    for e in (ours.numpy(), theirs.numpy()):
        unit = e / np.linalg.norm(e, axis=1, keepdims=True)
        values.append(np.exp(1j * unit @ t.numpy().T).mean(axis=0))
    a, b = values
    amplitude = (np.abs(a) - np.abs(b)) ** 2
    phase = 2 * (np.abs(a) * np.abs(b) - (a * b.conj()).real)
    expected = np.sqrt(np.maximum(0.5 * amplitude + 0.5 * phase, 0)).mean()
    means = [characteristic(e, t).mean(dim=0, keepdim=True) for e in (ours, theirs)]
    found = mean_distance("characteristic", means[0], means[1])
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_characteristic_function_has_a_gradient_where_it_is_met() -> None:
    e = torch.randn(4, 3, generator=draws(), requires_grad=True)
    t = torch.randn(5, 3, generator=draws(1))
    means = characteristic(e, t).mean(dim=0, keepdim=True)
    (gradient,) = torch.autograd.grad(mean_distance("characteristic", means, means.detach()), e)
    assert float(gradient.abs().max()) == 0


def test_frequencies_are_drawn_for_each_step_and_the_same_on_both_sides() -> None:
    made = matching(distance="characteristic", frequencies=7)
    e = torch.randn(3, 2, 4, generator=draws())
    assert made.embedded(e, 5).shape == (3, 14)
    assert torch.equal(made.embedded(e, 5), made.embedded(e, 5))
    assert not torch.equal(made.embedded(e, 5), made.embedded(e, 6))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_images_move_by_the_optimizer_that_is_named(optimizer: str) -> None:
    made = matching(iterations=1, lr_images=0.01, optimizer=optimizer)
    moved = (made.run()[0] - made.start().detach()).abs()
    inner = moved[(moved > 0) & (moved < 0.02)]
    adam = float(inner.quantile(0.5))
    assert (adam == pytest.approx(0.01, rel=0.01)) is (optimizer == "adamw")


def contrast_by_hand(
    e: np.ndarray, y: list[int], temperature: float, anchors: int | None = None
) -> float:
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    terms = []
    for i in range(anchors or len(y)):
        others = [j for j in range(len(y)) if j != i]
        total = sum(np.exp(unit[i] @ unit[j] / temperature) for j in others)
        own = [j for j in others if y[j] == y[i]]
        if own:
            shares = [np.exp(unit[i] @ unit[j] / temperature) / total for j in own]
            terms.append(-np.mean(np.log(shares)))
    return float(np.mean(terms))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 1, 2], [0, 1, 2, 3, 4, 4]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("anchors", [None, 5])
def test_the_contrast_is_that_of_the_paper(
    labels: list[int], temperature: float, anchors: int | None
) -> None:
    e = torch.randn(6, 4, generator=draws(), dtype=torch.float64)
    found = supervised_contrast(e, torch.tensor(labels), temperature, anchors=anchors)
    expected = contrast_by_hand(e.numpy(), labels, temperature, anchors)
    assert float(found) == pytest.approx(expected)


def test_the_contrast_is_differentiable_and_lowest_for_classes_apart() -> None:
    e = torch.randn(6, 4, generator=draws(), dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda e: supervised_contrast(e, y, 0.5), (e,))
    apart = torch.eye(3).repeat_interleave(2, dim=0)
    assert float(supervised_contrast(apart, y, 0.1)) < float(
        supervised_contrast(e.detach().float(), y, 0.1)
    )
    alone = supervised_contrast(torch.eye(3), torch.arange(3), 0.1)
    assert float(alone) == 0


def test_the_hardest_come_first_and_the_easy_ones_as_they_are_drawn() -> None:
    margins = torch.tensor([0.5, 3.0, -2.0, 1.0, 5.0, 0.9])
    first, again, other = (hardest_first(margins, draws(s)).tolist() for s in (0, 0, 1))
    assert first[:3] == other[:3] == [2, 0, 5]
    assert set(first[3:]) == {1, 3, 4} and first == again
    orders = {tuple(hardest_first(margins, draws(s)).tolist()[3:]) for s in range(40)}
    assert len(orders) == 6


def features(model: Any, x: Tensor) -> Tensor:
    return model.network[:-1](model.normalize(x))


def test_a_step_is_sgd_on_the_distance_of_mean_features() -> None:
    """Also with siamese operations, drawn for each class and the same on both sides."""
    made = matching(iterations=1, augment=("crop", "flip"), lr_images=3.0)
    u, _ = made.run()
    start = made.start().detach().requires_grad_()
    model = made.build(derive(0, "network", 0))
    order = generator(0, "matching", 0)
    seed = int(torch.randint(2**62, (), generator=order))
    layer, total = made.layer, 0.0
    for label in range(4):
        members = (made.splits.train.y == label).nonzero().flatten()
        chosen = torch.randperm(10, generator=generator(seed, "real", label))[:6]
        real = made.splits.train.x[members[chosen]].float() / 255
        draw = draw_dsa(("crop", "flip"), 1, generator(seed, "class", label))
        sides = [
            features(model, layer.inverse(apply_dsa(layer(x), draw))).mean(dim=0)
            for x in (real, layer.inverse(start[label]))
        ]
        total = total + (sides[0].detach() - sides[1]).square().sum()
    (gradient,) = torch.autograd.grad(total, start)
    expected = layer.project((start.detach() - 3.0 * gradient).flatten(0, 1)).view_as(u)
    torch.testing.assert_close(u, expected, rtol=1e-3, atol=1e-4)
    assert float((u - start).abs().max()) > 1e-3


def test_the_terms_are_those_of_labels_and_of_contrast() -> None:
    weights = {"label_weight": 0.7, "contrast_weight": 0.4, "contrast_temperature": 0.3}
    made = matching(networks=QUEUE, adversary=PGD, partition=2, **weights)
    u, model = made.start(), made.build(1).eval()
    loss, metrics = made.loss_of(model, 0.6, u, 0, draws())
    x = enlarged(made.layer.inverse(u.flatten(0, 1)), 2).flatten(0, 1)
    y = torch.arange(4).repeat_interleave(8)
    own = F.cross_entropy(model(x), y)
    assert metrics["label_loss"] == pytest.approx(float(own), rel=1e-5)
    assert metrics["network_accuracy"] == 0.6
    parts = 0.7 * 0.6 * metrics["label_loss"] + 0.4 * metrics["contrast"]
    whole = 4 * (metrics["matching_distance"] + parts)
    assert float(loss) == pytest.approx(whole, rel=1e-5)


def test_the_contrast_is_of_synthetic_images_and_their_attacked_versions() -> None:
    made = matching(networks=QUEUE, adversary=PGD, contrast_weight=1.0)
    u, model = made.start(), made.build(1).eval()
    _, metrics = made.loss_of(model, 0.0, u, 0, draws(5))
    seed = int(torch.randint(2**62, (), generator=draws(5)))
    x, y = made.layer.inverse(u.detach().flatten(0, 1)), torch.arange(4).repeat_interleave(2)
    moved = made.attack.attacked(model, x, y, generator(seed, "contrast"))
    assert moved is not None and float((moved - x).abs().max()) <= 0.1 + 1e-6
    both = torch.cat([penultimate(model, x), penultimate(model, moved)])
    expected = contrast_by_hand(both.double().numpy(), y.repeat(2).tolist(), 0.5, len(x))
    assert metrics["contrast"] == pytest.approx(expected, rel=1e-4)


def test_targets_are_of_attacked_images_in_the_ball() -> None:
    clean, attacked = matching(networks=QUEUE), matching(networks=QUEUE, adversary=PGD)
    model = clean.build(1).eval()
    plain, moved = (own.target(model, 2, 0, seed=9) for own in (clean, attacked))
    order = generator(9, "real", 2)
    x, y = attacked.batches.of(model, 2, 0, order)
    by_hand = attacked.attack.attacked(model, x, y, order)
    assert by_hand is not None
    assert 0 < float((by_hand - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(by_hand.min()) and float(by_hand.max()) <= 1
    torch.testing.assert_close(moved, penultimate(model, by_hand).mean(dim=0))
    assert not torch.allclose(moved, plain)
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(images), y)) for images in (x, by_hand)]
    assert losses[1] > losses[0]


def test_a_batch_norm_network_is_matched_at_real_statistics() -> None:
    made = matching(model=ModelConfig(width=4, depth=2))
    u, metrics = made.run()
    assert u.isfinite().all() and metrics["matching_distance"] > 0


def test_matching_brings_the_mean_features_of_other_networks_closer() -> None:
    def gap(u: Tensor, made: Matching) -> float:
        model, total = build_model(MODEL, SPEC, 99).eval(), 0.0
        for label in range(4):
            own = made.splits.train.y == label
            real = made.splits.train.x[own].float() / 255
            ours = penultimate(model, made.layer.inverse(u[label])).mean(dim=0)
            total += float((ours - penultimate(model, real).mean(dim=0)).square().sum())
        return total

    made = matching(iterations=60, lr_images=2.0)
    assert gap(made.run()[0], made) < 0.85 * gap(made.start().detach(), made)


def test_a_partition_starts_as_reduced_real_images_in_tiles() -> None:
    made = matching(ipc=1, partition=2)
    u = made.start().detach()
    assert u.shape == (4, 1, 3, 8, 8)
    tiles = made.layer.inverse(u[:, 0]).unfold(2, 4, 4).unfold(3, 4, 4)
    real = made.splits.train.x.float() / 255
    reduced = F.interpolate(real, (4, 4), mode="bilinear", antialias=True)
    for label in range(4):
        own = reduced[made.splits.train.y == label]
        for row in range(2):
            for column in range(2):
                gaps = (own - tiles[label, :, row, column]).abs().flatten(1).amax(dim=1)
                assert float(gaps.min()) < 1e-4


def test_a_partition_that_does_not_divide_is_named_in_one_line() -> None:
    with pytest.raises(DataError, match=r"^partition: images of 8 px do not divide into 3 by 3$"):
        matching(partition=3)


def test_a_smaller_class_starts_again_from_its_first_image() -> None:
    made = matching(ipc=4, partition=2)
    u = made.layer.inverse(made.start().detach().flatten(0, 1))
    parts = u.unfold(2, 4, 4).unfold(3, 4, 4)[:4].permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    assert torch.equal(parts[:6], parts[10:])
    assert len(parts.flatten(1).unique(dim=0)) == 10
