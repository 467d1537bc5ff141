"""Attacks that begin where the image's last one ended (LS-PGD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attacked import DEFINED, EPS, SHAPE, bn_net, config, samples, smooth_net
from torch import Tensor, nn

from guard.artifacts import ArtifactStore
from guard.config import RegularizerConfig, TrainConfig
from guard.data.images import TensorImages
from guard.errors import ConfigError
from guard.group import ALONE, Group
from guard.models.input_layer import Normalize
from guard.pipeline import local_runner
from guard.training.line_search import Perturbations, line_search, mebibytes
from guard.training.loop import image_batches
from guard.training.losses import TrainingLoss, gains
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import CPU, draws

COUNT = 7
SIDE = 8


def searching(kind: str = "adversarial", **fields: Any) -> RegularizerConfig:
    return config(kind, ascent="ls-pgd", **fields)


def beginning(x: Tensor, seed: int = 4) -> Tensor:
    return EPS * (2 * torch.rand(x.shape, generator=draws(seed), dtype=x.dtype) - 1)


def image_by_image(
    kind: str, model: nn.Module, x: Tensor, y: Tensor, moves: Tensor, known: Tensor, **fields: Any
) -> tuple[Tensor, Tensor]:
    """What the paper says, one image after another, one candidate after another."""
    own, found, reached = searching(kind, **fields), [], []
    for one, label, move, last in zip(x[:, None], y[:, None], moves[:, None], known, strict=True):
        clean = model(one).detach() if kind == "trades" else None
        low, high = one.clamp(max=0), one.clamp(min=1)

        def project(
            moved: Tensor, one: Tensor = one, low: Tensor = low, high: Tensor = high
        ) -> Tensor:
            return torch.minimum(torch.maximum(one + (moved - one).clamp(-EPS, EPS), low), high)

        def loss(moved: Tensor, label: Tensor = label, clean: Tensor | None = clean) -> Tensor:
            return gains(model(moved), label, clean)[0]

        here = project(one + move).requires_grad_()
        value = loss(here)
        best = (here.detach(), value.detach())
        if value < last:
            (gradient,) = torch.autograd.grad(value, here)
            lengths = [own.step_size * own.growth**q * EPS for q in range(own.candidates)]
            tried = [project(here.detach() + n * gradient.sign()) for n in lengths]
            best = max(((t, loss(t).detach()) for t in tried), key=lambda pair: float(pair[1]))
        found.append(best[0])
        reached.append(best[1])
    return torch.cat(found), torch.stack(reached)


@pytest.mark.parametrize("fields", [{}, {"candidates": 1}, {"growth": 1.5, "step_size": 0.4}])
@pytest.mark.parametrize("kind", DEFINED)
def test_a_search_is_what_its_definition_says(kind: str, fields: Mapping[str, Any]) -> None:
    model, (x, y) = smooth_net(), samples(COUNT, low=-0.1, high=1.1)
    moves = beginning(x)
    clean = model(x).detach() if kind == "trades" else None
    here = gains(model((x + moves).clamp(x.clamp(max=0), x.clamp(min=1))), y, clean).detach()
    known = here + torch.tensor([math.inf, 1.0, -1.0, 1.0, 0.0, -math.inf, 0.1])
    expected = image_by_image(kind, model, x, y, moves, known, **fields)
    found = line_search(model, x, y, searching(kind, **fields), EPS, moves, known)
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", DEFINED)
def test_a_search_stays_in_the_ball_and_in_the_pixel_range(kind: str) -> None:
    model, (x, y) = smooth_net(), samples(40)
    known = torch.full((40,), math.inf, dtype=x.dtype)
    moved, gain = line_search(model, x, y, searching(kind), EPS, 3 * beginning(x), known)
    assert float((moved - x).abs().max()) <= EPS + 1e-12
    assert moved.min() == 0 and moved.max() == 1, "both ends of the range are met"
    assert not moved.requires_grad and not gain.requires_grad


def test_what_has_not_dropped_is_taken_again_after_one_pass() -> None:
    model, (x, y) = bn_net().train(), samples(COUNT, low=0.2, high=0.8)
    seen: list[int] = []
    model.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    known = torch.full((COUNT,), -math.inf, dtype=x.dtype)
    moves = beginning(x)
    moved, gain = line_search(model, x, y, searching(), EPS, moves, known)
    torch.testing.assert_close(moved, x + moves)
    assert seen == [COUNT] and model.training
    known[:2] = math.inf
    line_search(model, x, y, searching(candidates=3), EPS, moves, known)
    assert seen[1:] == [COUNT, 2, 2, 2], "only those that have dropped are searched"
    again, _ = line_search(model, x, y, searching(), EPS, moves, gain)
    assert torch.equal(again, moved)


def test_visit_after_visit_the_loss_rises() -> None:
    model, (x, y) = smooth_net(), samples(40, low=0.2, high=0.8)
    moves, known = beginning(x), torch.full((40,), math.inf, dtype=x.dtype)
    means = [float(gains(model(x), y, None).detach().mean())]
    for _ in range(4):
        moved, gain = line_search(model, x, y, searching(), EPS, moves, known)
        moves, known = moved - x, torch.full_like(known, math.inf)
        means.append(float(gain.mean()))
    assert means == sorted(means) and means[-1] > 1.1 * means[0]


def labelled(count: int = 10) -> TensorImages:
    x = torch.randint(256, (count, 1, SIDE, SIDE), generator=draws(1), dtype=torch.uint8)
    return TensorImages(x, torch.arange(count) % 3)


def kept(images: TensorImages, group: Group = ALONE, **fields: Any) -> Perturbations:
    shape = tuple(images.x.shape[1:])
    return Perturbations(searching(**fields), EPS, images, shape, CPU, draws(2), group)


LAYER = Normalize((0.5,), (0.25,))


@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip")])
def test_the_batches_are_those_of_any_training(augment: tuple[Any, ...]) -> None:
    loop, images = TrainConfig(batch_size=4, augment=augment), labelled()
    plain = list(image_batches(images, loop, LAYER, CPU, draws(3)))
    ours = list(kept(images).batches(loop, LAYER, CPU, draws(3)))
    for (x, y), (wanted_x, wanted_y) in zip(ours, plain, strict=True):
        assert torch.equal(x, wanted_x) and torch.equal(y, wanted_y)


def test_a_perturbation_starts_anywhere_in_the_ball() -> None:
    moves = kept(labelled(200)).moves / EPS
    assert -1 <= float(moves.min()) < -0.99 and 0.99 < float(moves.max()) <= 1
    assert float(moves.mean()) == pytest.approx(0, abs=0.03)


class Watching(nn.Module):
    """A network whose loss of an image is higher the brighter it is; it keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        total = x.flatten(1).sum(dim=1)
        return torch.stack([-total, torch.zeros_like(total), torch.zeros_like(total)], dim=1)


@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip")])
def test_a_perturbation_follows_its_image(augment: tuple[Any, ...]) -> None:
    """Pixel by pixel through the augmentation and back; what is out of sight stays."""
    count, grey = 6, torch.full((6, 1, SIDE, SIDE), 128, dtype=torch.uint8)
    images = TensorImages(grey, torch.zeros(count).long())
    loop, own = TrainConfig(batch_size=count, augment=augment), kept(images, step_size=2.0)
    before, model = own.moves.clone(), Watching()
    ((x, y),) = own.batches(loop, LAYER, CPU, draws(3))
    inside = x > 0
    moved = own.attacked(model, x, y)
    first, reached = model.seen[0] - x, torch.full((int(inside.sum()),), EPS)
    assert not first[~inside].any(), "there is no perturbation where there was no image"
    assert first[inside].std() > EPS / 3
    torch.testing.assert_close((moved - x)[inside], reached)
    seen = own.moves != before
    assert int(seen.sum()) == len(reached)
    torch.testing.assert_close(own.moves[seen], reached)
    again = kept(images)
    again.load_state_dict(own.state_dict())
    ((x, y),) = again.batches(loop, LAYER, CPU, draws(3))
    model.seen.clear()
    again.attacked(model, x, y)
    torch.testing.assert_close((model.seen[0] - x)[inside], reached)
    own.moves.copy_(before)
    ((x, y),) = own.batches(loop, LAYER, CPU, draws(3))
    own._keep(own._framed.detach(), own.gains[own._rows])
    assert torch.equal(own.moves, before), "there and back again"


def test_what_an_image_had_is_kept_for_its_next_visit() -> None:
    model, images = smooth_net().float(), labelled(8)
    images = TensorImages(images.x[:, :, :3, :3].expand(-1, 2, -1, -1).contiguous(), images.y)
    own = Perturbations(searching(), EPS, images, SHAPE, CPU, draws(2))
    loop = TrainConfig(batch_size=3)
    for epoch in range(2):
        for x, y in own.batches(loop, LAYER, CPU, draws(epoch)):
            begun = own.moves[own._rows].clone()
            moved = own.attacked(model, x, y)
            expected = gains(model(moved), y, None).detach()
            torch.testing.assert_close(own.gains[own._rows], expected)
            torch.testing.assert_close(own.moves[own._rows], moved - x)
            if epoch:  # the network is the same, so no loss has dropped
                torch.testing.assert_close(x + begun, moved)
    assert bool(own.gains.isfinite().all())


def test_a_plain_attack_is_none_of_a_search() -> None:
    x, y = samples()
    with pytest.raises(AssertionError, match="kept by"):
        TrainingLoss(searching(), EPS).attacked(smooth_net(), x, y, draws())


def test_kept_perturbations_take_as_much_as_images_in_floats() -> None:
    assert mebibytes(50_000, (3, 32, 32)) == pytest.approx(586.1, abs=0.1)
    own = kept(labelled())
    held = sum(part.numel() * part.element_size() for part in own.state_dict().values())
    assert held == pytest.approx(2**20 * mebibytes(10, (1, SIDE, SIDE)))


TINY: dict[str, Any] = {
    "model": {"width": 6, "depth": 2},
    "squeeze": {"epochs": 3, "optimizer": "adamw", "lr": 0.02, "augment": ["crop"]},
    "regularizer": {"kind": "adversarial", "ascent": "ls-pgd"},
    "evaluation.eps": 0.05,
}
EXPERTS: dict[str, Any] = {
    "method": "mat",
    "regularizer": "none",
    "model": {"name": "convnet", "width": 6, "depth": 2},
    "mat": {"max_start": 1, "expert_epochs": 1},
    "mat.experts": {"count": 1, "adversary": {"kind": "mart", "ascent": "ls-pgd"}},
    "mat.experts.train": {"epochs": 3, "lr": 0.1, "batch_size": 64, "momentum": 0.9},
}


@pytest.mark.parametrize("changes", [{}, EXPERTS])
def test_a_network_is_trained_by_it(changes: dict[str, Any], tmp_path: Path) -> None:
    config = TrialConfig().override(TINY).override(changes)
    (made,) = local_runner(ArtifactStore(tmp_path))(plan(config)[0])
    assert made.summary["metrics"]["kept_mebibytes"] == pytest.approx(0.321, abs=0.001)
    losses = [epoch["loss"] for epoch in made.summary["history"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"squeeze.augment": ["flip", "resized-crop", "dsa"]},
            "squeeze.augment: ls-pgd keeps perturbations, which follow crop and flip alone; got "
            "resized-crop, dsa (or set ascent = pgd)",
        ),
        (
            {"method": "whole", "squeeze.augment": ["dsa"]},
            "squeeze.augment: ls-pgd keeps perturbations, which follow crop and flip alone; got "
            "dsa (or set ascent = pgd)",
        ),
        (
            {"method": "mtt"},
            "mtt.experts.train.augment: ls-pgd keeps perturbations, which follow crop and flip "
            "alone; got dsa (or set ascent = pgd)",
        ),
        (
            {"regularizer": "none", "tesla.experts.adversary": TINY["regularizer"]},
            "tesla.experts.train.augment: ls-pgd keeps perturbations, which follow crop and flip "
            "alone; got dsa (or set ascent = pgd)",
        ),
        (
            {"method": "random", "student.labels": "soft", "squeeze.augment": ["dsa"]},
            "squeeze.augment: ls-pgd keeps perturbations, which follow crop and flip alone; got "
            "dsa (or set ascent = pgd)",
        ),
        *[
            (
                {"method": name},
                f"regularizer.ascent: the batches of {name} do not come back to the same network "
                "as they were, so there is no last attack to go on from: must be pgd, got ls-pgd",
            )
            for name in ("dc", "dsa", "idm")
        ],
        (
            {"student.regularizer": TINY["regularizer"]},
            "student.regularizer.ascent: a student's images, augmented and mixed, do not come back "
            "to the same network as they were, so there is no last attack to go on from: must be "
            "pgd, got ls-pgd",
        ),
        (
            {"rome.adversary": TINY["regularizer"]},
            "rome.adversary.ascent: batches for many networks do not come back to the same network "
            "as they were, so there is no last attack to go on from: must be pgd, got ls-pgd",
        ),
    ],
)
def test_what_it_cannot_be_combined_with_is_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(TINY).override(changes)
    assert str(caught.value) == told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_keeps_what_one_process_keeps(rank: int) -> None:
    """Each process attacks its share, and has the others' perturbations."""
    model, images, loop = Watching(), labelled(6), TrainConfig(batch_size=4)
    alone = kept(images)
    expected = [alone.attacked(model, x, y) for x, y in alone.batches(loop, LAYER, CPU, draws(3))]
    summands: list[Tensor] = []
    for own in (1 - rank, rank):  # what the other one adds is known when this one asks

        def add(values: Tensor, own: int = own) -> None:
            if own == rank:
                values += summands.pop(0)
            else:
                summands.append(values.clone())

        group = Group(rank=own, size=2, add=add)
        ours = kept(images, group=group)
        for (x, y), whole in zip(ours.batches(loop, LAYER, CPU, draws(3)), expected, strict=True):
            moved = ours.attacked(model, x, y)
            torch.testing.assert_close(moved, whole[group.share(len(x)).rows])
    torch.testing.assert_close(ours.moves, alone.moves)
    torch.testing.assert_close(ours.gains, alone.gains)


def test_augmentations_of_what_is_not_trained_so_may_be_any() -> None:
    experts = {"method": "mtt", "mtt.experts.train.augment": ["flip"], "squeeze.augment": ["dsa"]}
    for changes in (experts, {"regularizer.ascent": "pgd", "squeeze.augment": ["dsa"]}):
        TrialConfig().override({**TINY, "squeeze.augment": []}).override(changes)


def test_a_visit_costs_a_search_at_most() -> None:
    assert RegularizerConfig.named("pgd-at").passes == 14
    assert searching().passes == 5
    assert searching(candidates=2).passes == 4
    assert searching("trades", weight=6).passes == 8
