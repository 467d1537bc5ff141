"""RDED: which crops a teacher chooses, and what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recovering import SPEC, teacher
from torch import Tensor
from torch.nn import functional as F

from guard.data.images import Splits, TensorImages
from guard.data.tiles import resized
from guard.errors import DataError
from guard.methods.rded import RDED, Crops
from guard.methods.rded.mosaic import Choice, cut, ranked, square_windows
from guard.seeding import derive
from helpers import CPU, draws


def image_set(each: int = 12) -> TensorImages:
    y = torch.arange(4).repeat(each)
    shape = (len(y), 3, 8, 8)
    return TensorImages(torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws(7)), y)


def choice(eps: float = 0.0, hardness: Tensor | None = None, **config: Any) -> Choice:
    images = image_set()
    return Choice(
        config=Crops.from_dict({"candidates": 6, "crops": 3, **config}),
        splits=Splits(spec=SPEC, train=images, validation=images, test=images, sha256=""),
        teacher=teacher(),
        hardness=hardness,
        eps=eps,
        seed=0,
        device=CPU,
    )


def test_windows_are_squares_inside_of_an_image_of_uniform_area() -> None:
    windows = square_windows((2000, 3), 0.25, 32, draws())
    top, left, side = windows.unbind(dim=-1)
    assert windows.shape == (2000, 3, 3) and windows.dtype == torch.int64
    assert int(side.min()) == 16 and int(side.max()) == 32
    for corner in (top, left):
        assert int(corner.min()) == 0 and bool((corner + side <= 32).all())
    share = side.double().square() / 32**2
    assert float(share.mean()) == pytest.approx(0.625, abs=0.01)
    assert float((share < 0.625).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert len(set(top[side == 16].tolist())) > 10


def test_a_window_is_never_empty() -> None:
    assert int(square_windows((100,), 1e-6, 8, draws())[:, 2].min()) == 1


def test_crops_are_cut_where_their_windows_are() -> None:
    x = torch.rand(2, 3, 8, 8, generator=draws())
    windows = torch.tensor([[[0, 0, 8], [2, 1, 4]], [[4, 4, 4], [0, 3, 2]]])
    found = cut(x, windows, 4)
    assert found.shape == (2, 2, 3, 4, 4)
    assert torch.equal(found[0, 1], x[0, :, 2:6, 1:5])
    assert torch.equal(found[1, 0], x[1, :, 4:8, 4:8])
    torch.testing.assert_close(
        found[0, 0].mean(dim=(1, 2)), x[0].mean(dim=(1, 2)), rtol=0, atol=0.05
    )


def test_a_crop_is_framed_by_what_is_zero_to_the_network() -> None:
    made = choice(tiles=2)
    crops = torch.rand(5, 3, 4, 4, generator=draws())
    u = made.teacher.normalize(made.framed(crops))
    inner = made.teacher.normalize(made.framed(crops))[..., 2:6, 2:6]
    torch.testing.assert_close(made.teacher.normalize.inverse(inner), crops)
    u[..., 2:6, 2:6] = 0
    assert float(u.abs().max()) < 1e-6


def test_scores_are_losses_or_margins_of_the_teacher() -> None:
    x = torch.rand(6, 3, 8, 8, generator=draws())
    logits = teacher()(x).detach().numpy().astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    others = np.delete(logits, 2, axis=1).max(axis=1)
    losses = choice().scores(x, 2, draws()).numpy()
    np.testing.assert_allclose(losses, -np.log(shares[:, 2]), rtol=1e-4)
    margins = choice(score="margin").scores(x, 2, draws()).numpy()
    np.testing.assert_allclose(margins, others - logits[:, 2], rtol=1e-4)


@pytest.mark.parametrize("score", ["loss", "margin"])
def test_under_an_attack_crops_are_harder_by_its_radius(score: str) -> None:
    x = torch.rand(20, 3, 8, 8, generator=draws())
    plain = choice(score=score).scores(x, 1, draws())
    near, far = (
        choice(eps=eps, score=score, attack_steps=5).scores(x, 1, draws()) for eps in (1e-6, 0.1)
    )
    torch.testing.assert_close(near, plain, rtol=1e-3, atol=1e-3)
    assert bool((far > plain).all())


@pytest.mark.parametrize("tiles", [1, 2])
def test_the_easiest_crop_of_each_and_the_easiest_of_these_are_kept(tiles: int) -> None:
    """Everything anew, with loops."""
    made, ipc = choice(tiles=tiles), 1
    images, score = made.images(ipc)
    assert images.shape == (ipc, 4, 3, 8, 8)
    model, train, totals = teacher(), made.splits.train, []
    for label in range(4):
        own = torch.Generator().manual_seed(seed_of(label))
        members = (train.y == label).nonzero().flatten()
        candidates = members[torch.randperm(len(members), generator=own)][:6]
        windows = square_windows((6, 3), 0.08, 8, own)
        kept = []
        for index, row in zip(candidates, windows.tolist(), strict=True):
            image = train.x[index].float() / 255
            crops = [
                resized(image[None, :, top : top + side, left : left + side], 8 // tiles)
                for top, left, side in row
            ]
            losses = [
                float(F.cross_entropy(model(made.framed(c)), torch.tensor([label])).detach())
                for c in crops
            ]
            best = int(np.argmin(losses))
            kept.append((losses[best], crops[best][0]))
        kept.sort(key=lambda pair: pair[0])
        taken = kept[: tiles**2]
        totals.append(np.mean([loss for loss, _ in taken]))
        rows = [
            torch.cat([c for _, c in taken[r : r + tiles]], dim=2)
            for r in range(0, tiles**2, tiles)
        ]
        torch.testing.assert_close(images[0, label], torch.cat(rows, dim=1))
    assert score == pytest.approx(np.mean(totals), rel=1e-4)


def seed_of(label: int) -> int:
    return derive(0, "crops", label)


def test_medium_crops_lie_around_the_median() -> None:
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert ranked(scores, "easiest").tolist() == [1, 3, 4, 2, 0]
    assert scores[ranked(scores, "medium")].tolist() == [3, 2, 4, 1, 5]


def test_with_a_budget_the_hardest_images_are_taken_in_their_order() -> None:
    hardness = torch.rand(48, generator=draws(), dtype=torch.float64)
    made = choice(hardness=hardness, crop_scale=1.0)
    images, _ = made.images(3)
    train = made.splits.train
    for label in range(4):
        members = (train.y == label).nonzero().flatten()
        hardest = sorted(members.tolist(), key=lambda index: -float(hardness[index]))[:3]
        assert torch.equal(images[:, label], train.x[torch.tensor(hardest)].float() / 255)


def test_a_set_for_fewer_images_is_a_prefix() -> None:
    for config in ({}, {"tiles": 2}, {"pick": "medium"}, {"hardness": torch.rand(48)}):
        made = choice(candidates=12, **config)
        assert torch.equal(made.images(2)[0][:1], made.images(1)[0]), config


def test_what_cannot_be_tiled_is_named_in_one_line() -> None:
    with pytest.raises(DataError, match=r"^tiles: images of 8 px do not divide into 3 by 3$"):
        choice(tiles=3)
    with pytest.raises(DataError, match=r"^ipc: class 0 has 12 .* each of 16 for ipc = 4$"):
        choice(tiles=2).images(4)


def test_as_many_candidates_are_tried_as_are_needed() -> None:
    assert RDED(candidates=5).pool(3) == 5
    assert RDED(candidates=5, tiles=2).pool(3) == 12
