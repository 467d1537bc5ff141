"""What each step of a recovery sees: rolls, flips and crops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from guard.data.augment import crop_windows, resized_crop
from guard.methods.sre2l import CDA, SRe2L
from guard.methods.sre2l.recover import augmented, smallest_crop
from helpers import draws


def test_a_view_without_augmentation_is_the_images_and_draws_nothing() -> None:
    u, generator = torch.rand(4, 3, 8, 8), draws()
    assert augmented(u, SRe2L(), 0, generator) is u
    assert torch.equal(generator.get_state(), draws().get_state())


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ({"jitter": 3}, True),
        ({"jitter": 3, "two_sided_jitter": True}, True),
        ({"crop": "batch"}, True),
        ({"crop": "batch", "flip": True}, True),
        ({"crop": "image"}, False),
        ({"flip": True}, False),
    ],
)
def test_views_are_drawn_per_batch_or_per_image(config: dict[str, Any], same: bool) -> None:
    one = torch.rand(1, 3, 8, 8, generator=draws(1))
    views = augmented(one.expand(16, -1, -1, -1), SRe2L(**config), 0, draws(2))
    assert bool((views - views[:1]).abs().max() < 1e-6) is same
    assert not torch.allclose(views, one)


@pytest.mark.parametrize("two_sided", [False, True])
def test_the_jitter_is_one_sided_or_two_sided(two_sided: bool) -> None:
    u = torch.rand(1, 3, 8, 8, generator=draws(1))
    config = SRe2L(jitter=2, two_sided_jitter=two_sided)
    offsets = range(-2 if two_sided else 0, 3)
    rolled = {(d, r): u.roll((d, r), (2, 3)) for d in offsets for r in offsets}
    views = [augmented(u, config, 0, draws(seed)) for seed in range(200)]
    seen = [{at for at, v in rolled.items() if torch.equal(v, view)} for view in views]
    assert all(len(at) == 1 for at in seen)
    assert set().union(*seen) == set(rolled)


def curriculum_by_hand(kind: str, step: int, length: float, lowest: float) -> float:
    """Smallest area share of CDA: from 1 to `lowest` over `length` iterations, then constant."""
    if step >= length:
        return lowest
    if kind == "step":
        return 1.0
    if kind == "linear":
        return 1.0 - (1.0 - lowest) * step / length
    return lowest + (1.0 - lowest) * math.cos(math.pi * step / (2 * length)) ** 2


@pytest.mark.parametrize("milestone", [0.0, 0.35, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["cosine", "linear", "step"])
def test_a_curriculum_of_crops_is_that_of_cda(kind: str, milestone: float) -> None:
    config = CDA(iterations=10, crop_scale=0.2, curriculum=kind, milestone=milestone)
    scales = [smallest_crop(config, step) for step in range(10)]
    expected = [curriculum_by_hand(kind, step, 10 * milestone, 0.2) for step in range(10)]
    assert scales == pytest.approx(expected, rel=1e-12)
    assert scales == sorted(scales, reverse=True)
    assert scales[0] == (1.0 if milestone else 0.2)


def test_without_a_curriculum_a_crop_keeps_the_same_share() -> None:
    config = CDA(iterations=10, crop_scale=0.3, curriculum="none")
    assert {smallest_crop(config, step) for step in range(10)} == {0.3}


@pytest.mark.parametrize(("crop", "count"), [("batch", 1), ("image", 5)])
@pytest.mark.parametrize("step", [0, 6, 9])
def test_crops_follow_the_curriculum(crop: str, count: int, step: int) -> None:
    u = torch.rand(5, 3, 8, 8, generator=draws(1))
    config = CDA(iterations=10, crop=crop, flip=False, crop_scale=0.1)
    windows = crop_windows(count, smallest_crop(config, step), (8, 8), draws(3))
    view = augmented(u, config, step, draws(3))
    torch.testing.assert_close(view, resized_crop(u, windows))
    assert torch.allclose(view, u, atol=1e-6) is (step == 0)
