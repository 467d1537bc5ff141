"""The networks that features are matched on, and the batches of real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_dm import PGD, QUEUE, interrupted, matching
from torch import Tensor
from torch.nn import functional as F

from guard.checkpoint import Checkpoint
from guard.config import RegularizerConfig
from guard.methods.dm.networks import Fresh, Queue
from guard.models.networks import Classifier
from guard.seeding import generator
from guard.training.losses import TrainingLoss, margins
from helpers import draws, same


def queue(**config: Any) -> Queue:
    found = matching(networks=QUEUE, **config).networks
    assert isinstance(found, Queue)
    return found


def weights(model: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_without_a_queue_each_iteration_has_a_fresh_network() -> None:
    networks = matching().networks
    assert isinstance(networks, Fresh)
    (first, accuracy), (again, _), (other, _) = (networks.draw(n) for n in (0, 0, 1))
    assert accuracy == 0
    assert same(weights(first), weights(again)) and not same(weights(first), weights(other))


def test_a_queue_grows_to_its_bound_and_forgets_the_oldest() -> None:
    networks, numbers = queue(), []
    for iteration in range(8):
        networks.draw(iteration)
        numbers.append([own.number for own in networks.members])
    assert numbers[:2] == [[0, 1]] * 2
    assert numbers[2:4] == [[0, 1, 2]] * 2
    assert numbers[4:6] == [[1, 2, 3]] * 2 and numbers[6:] == [[2, 3, 4]] * 2


def test_members_are_trained_by_sgd_with_momentum_on_real_images() -> None:
    """The same steps, written out."""
    networks = queue()
    member, twin = networks.members[0], networks.member(0)
    start = [p.detach().clone() for p in member.model.parameters()]
    networks.train(member)
    order, velocity = generator(0, "training", 0, 0), [torch.zeros_like(p) for p in start]
    right = 0
    for _ in range(QUEUE.steps):
        chosen = torch.randint(40, (16,), generator=order)
        x, y = networks.images.x[chosen].float() / 255, networks.images.y[chosen]
        logits = twin.model.train()(x)
        right += int((logits.argmax(dim=1) == y).sum())
        gradients = torch.autograd.grad(F.cross_entropy(logits, y), list(twin.model.parameters()))
        for p, v, g in zip(twin.model.parameters(), velocity, gradients, strict=True):
            v.mul_(0.9).add_(g + 5e-4 * p.detach())
            p.data.sub_(0.01 * v)
    for ours, theirs in zip(member.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert member.accuracy == right / 32
    assert member.trained == 1


def test_the_regularizer_and_the_adversary_act_in_the_training() -> None:
    plain = queue()
    penalised, attacked = queue(), queue(adversary=PGD)
    penalised.loss = TrainingLoss(RegularizerConfig.named("gradient-norm"), 0.1)
    found = []
    for networks in (plain, penalised, attacked):
        networks.train(networks.members[0])
        found.append(weights(networks.members[0].model))
    assert not same(found[0], found[1]) and not same(found[0], found[2])


@pytest.mark.parametrize("hardest_first", [False, True])
def test_a_run_that_is_taken_up_again_ends_in_the_same_bytes(
    hardest_first: bool, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "iterations": 5,
        "networks": QUEUE,
        "adversary": PGD,
        "hardest_first": hardest_first,
        "contrast_weight": 0.5,
        "label_weight": 0.5,
    }
    whole, metrics = matching(**settings).run()
    made = matching(**settings)
    kept = Checkpoint(tmp_path, every_s=0)
    calls = interrupted(made, 4)
    with pytest.raises(KeyboardInterrupt):
        made.run(kept)
    again, last = matching(**settings).run(Checkpoint(tmp_path, every_s=0))
    assert calls == [0, 1, 2, 3]
    assert torch.equal(again, whole) and last == metrics


def test_a_pass_goes_through_a_class_from_the_hardest() -> None:
    made = matching(networks=QUEUE, adversary=PGD, hardest_first=True, batch_size=4)
    model = made.build(1).eval()
    own = made.members[2]
    batches = [made.batches.of(model, 2, iteration, draws(iteration)) for iteration in range(3)]
    order = made.batches.orders[2]
    assert sorted(order.tolist()) == own.tolist()
    seen = torch.cat([x for x, _ in batches])
    assert torch.equal(seen, made.splits.train.x[order].float() / 255)
    assert [len(x) for x, _ in batches] == [4, 4, 2], "the easiest have a turn too"
    assert all(bool((y == 2).all()) for _, y in batches)
    x = made.splits.train.x[own].float() / 255
    moved = made.attack.attacked(model, x, torch.full((10,), 2), draws(0))
    assert moved is not None
    hardness = (1 - margins(model(moved), torch.full((10,), 2))).clamp(min=0)
    ranks = [int((own == index).nonzero()) for index in order]
    falling = hardness[ranks].tolist()
    assert falling == sorted(falling, reverse=True)


def test_a_new_pass_is_ranked_by_the_network_that_begins_it() -> None:
    made = matching(networks=QUEUE, adversary=PGD, hardest_first=True, batch_size=4)
    first, second = (made.build(seed).eval() for seed in (1, 2))
    made.batches.of(first, 0, 0, draws())
    before = made.batches.orders[0].clone()
    for iteration in (1, 2):
        made.batches.of(second, 0, iteration, draws())
        assert torch.equal(made.batches.orders[0], before)
    made.batches.of(second, 0, 3, draws())
    assert not torch.equal(made.batches.orders[0], before)
