"""Perturbations that are kept for an image's next visit (LS-PGD)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attacked import EPS, SHAPE, searching, smooth_net
from torch import Tensor, nn

from guard.config import TrainConfig
from guard.data.images import TensorImages
from guard.group import ALONE, Group
from guard.models.input_layer import Normalize
from guard.training.line_search import Perturbations, mebibytes
from guard.training.loop import image_batches
from guard.training.losses import gains
from helpers import CPU, draws

SIDE = 8


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


def test_kept_perturbations_take_as_much_as_images_in_floats() -> None:
    assert mebibytes(50_000, (3, 32, 32)) == pytest.approx(586.1, abs=0.1)
    own = kept(labelled())
    held = sum(part.numel() * part.element_size() for part in own.state_dict().values())
    assert held == pytest.approx(2**20 * mebibytes(10, (1, SIDE, SIDE)))


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
