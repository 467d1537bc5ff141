"""The batches that a student sees: which images, how augmented and mixed, with which targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from students import SPACE, logits
from torch import Tensor

from guard.config import StudentConfig, TrainConfig
from guard.data.augment import Augmenter
from guard.seeding import derive
from guard.training.recipe import Recipe
from helpers import draws


def recipe(**changes: Any) -> Recipe:
    config = StudentConfig().override(
        {"train.batch_size": 4, "train.augment": ["crop", "flip"], "mix": "mixup", **changes}
    )
    return Recipe.of(config, SPACE)


def targets(count: int = 10, seed: int = 7) -> Tensor:
    """Distributions over five classes, (count, 5)."""
    return logits(seed, count).float().softmax(dim=1)


def test_batches_are_a_function_of_recipe_and_epoch() -> None:
    images = torch.rand(10, 1, 8, 8, generator=draws())
    before = torch.get_rng_state()
    first, again = (list(recipe().batches(images, targets(), 1)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [(len(x), len(y)) for x, y in first] == [(4, 4), (4, 4), (2, 2)]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    others = [recipe().batches(images, targets(), 2)]
    others += [recipe(**c).batches(images, targets(), 1) for c in ({"seed": 1}, {"mix": "cutmix"})]
    for other in others:
        for x, changed in zip(first, other, strict=True):
            assert not torch.equal(x[0], changed[0])
            assert not torch.equal(x[1], changed[1])


def test_plain_batches_show_every_image_once_in_a_new_order() -> None:
    images = torch.arange(10.0).view(10, 1, 1, 1)
    plain = recipe(**{"train.augment": [], "mix": "none"})
    made = [list(plain.batches(images, targets(), epoch)) for epoch in range(3)]
    orders = [torch.cat([x for x, _ in epoch]).flatten().long().tolist() for epoch in made]
    for order, epoch in zip(orders, made, strict=True):
        assert torch.equal(torch.cat([y for _, y in epoch]), targets()[order])
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_mixed_like_their_images(kind: str) -> None:
    """Image i is one on channel i alone, so a mixed image says what it is made of."""
    images = torch.eye(10)[:, :, None, None].expand(10, 10, 16, 16)
    mixed = recipe(**{"train.augment": [], "mix": kind})
    shares, seen = [], []
    for x, target in mixed.batches(images, targets(), 3):
        share = x.mean(dim=(2, 3))
        torch.testing.assert_close(target, share @ targets())
        shares.append(share)
        seen += share.gt(0).sum(dim=1).tolist()
    torch.testing.assert_close(torch.cat(shares).sum(dim=1), torch.ones(10))
    assert set(seen) == {1, 2} or seen == [2] * 10


def test_a_recipe_holds_what_the_config_says() -> None:
    config = StudentConfig().override(
        {
            "seed": 4,
            "train": {
                "batch_size": 3,
                "augment": ["flip"],
                "crop_scale": 0.3,
                "dsa_ops": ["color"],
            },
            "mix": "cutmix",
            "mix_alpha": 0.7,
        }
    )
    augmenter = Augmenter(
        names=("flip",), crop_scale=0.3, dsa_ops=("color",), shuffle_patches=2, space=SPACE
    )
    assert Recipe.of(config, SPACE) == Recipe(
        seed=4, batch_size=3, augment=augmenter, mix="cutmix", mix_alpha=0.7
    )


@pytest.mark.parametrize("names", [(), ("crop",), ("resized-crop", "flip"), ("dsa",)])
def test_batches_are_augmented_as_named(names: tuple[str, ...]) -> None:
    images = torch.rand(5, 1, 8, 8, generator=draws())
    made = recipe(**{"train.augment": list(names), "train.batch_size": 5, "mix": "none"})
    ((batch, _),) = made.batches(images, targets(5), 0)
    generator = draws(derive(0, "student-batches", 0))
    order = torch.randperm(5, generator=generator)
    augment = Augmenter.of(TrainConfig(augment=names), SPACE)
    assert torch.equal(batch, augment(images[order], generator))
