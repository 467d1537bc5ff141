from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from guard.config import DSA_OPS, TrainConfig
from guard.data.augment import (
    Augmenter,
    flip,
    in_space,
    mix,
    mixing_weight,
    padded_crop,
    roll,
    shuffled,
)
from guard.data.dsa import DsaDraw, draw_dsa
from guard.models.input_layer import Normalize
from helpers import draws

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
SPACE = Normalize(MEAN, STD)


def images(count: int = 6, channels: int = 3, size: int = 8) -> Tensor:
    return torch.rand(count, channels, size, size, generator=draws(42))


def augment(x: Tensor, names: list[str], crop_scale: float, generator: torch.Generator) -> Tensor:
    space = Normalize(MEAN[: x.shape[1]], STD[: x.shape[1]])
    return Augmenter.of(TrainConfig(augment=names, crop_scale=crop_scale), space)(x, generator)


OPERATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "flip": flip,
    "padded_crop": lambda x, g: padded_crop(x, 2, g),
    "roll": lambda x, g: roll(x, 3, g),
    "resized-crop": lambda x, g: augment(x, ["resized-crop"], 0.3, g),
    "mixup": lambda x, g: mix(x, "mixup", 1.0, g)[0],
    "cutmix": lambda x, g: mix(x, "cutmix", 1.0, g)[0],
    "crop": lambda x, g: augment(x, ["crop"], 0.08, g),
    "all": lambda x, g: augment(x, ["resized-crop", "crop", "flip"], 0.3, g),
    "dsa": lambda x, g: augment(x, ["dsa"], 0.3, g),
    "shuffle": lambda x, g: augment(x, ["shuffle"], 0.3, g),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_augmentation_keeps_shape_and_range_and_draws_from_its_generator(
    name: str, channels: int
) -> None:
    operate, x = OPERATIONS[name], images(channels=channels)
    original, before = x.clone(), torch.get_rng_state()
    results = [operate(x, draws(seed)) for seed in (1, 1, 2)]
    assert results[0].shape == x.shape and results[0].dtype == x.dtype
    assert name == "dsa" or (0 <= results[0].min() and results[0].max() <= 1)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_flow_to_the_images(name: str) -> None:
    x = images(64).requires_grad_()
    y = OPERATIONS[name](x, draws(1))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.isfinite().all()
    reached = gradient.flatten(1).abs().amax(dim=1) > 0
    assert reached.double().mean() > 0.9


@pytest.mark.parametrize("name", ["flip", "roll", "shuffle"])
def test_a_permutation_of_pixels_has_a_gradient_of_ones(name: str) -> None:
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(OPERATIONS[name](x, draws(1)).sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    x = images(400)
    y = flip(x, draws())
    mirrored = (y == x.flip(-1)).flatten(1).all(dim=1)
    kept = (y == x).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~kept)
    assert 160 < int(mirrored.sum()) < 240


def test_a_batch_is_mirrored_as_one() -> None:
    x = images(400)
    seen = [flip(x, draws(seed), together=True) for seed in range(40)]
    mirrored = [torch.equal(y, x.flip(-1)) for y in seen]
    assert all(mirrored[n] or torch.equal(y, x) for n, y in enumerate(seen))
    assert 10 < sum(mirrored) < 30


def test_a_padded_crop_shifts_each_image_by_its_own_offset() -> None:
    x, pad = images(300), 2
    padded = torch.nn.functional.pad(x, (pad,) * 4)
    windows = [padded[..., top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
    y = padded_crop(x, pad, draws())
    matches = torch.stack([(y == window).flatten(1).all(dim=1) for window in windows])
    assert bool((matches.sum(dim=0) == 1).all())
    assert bool((matches.sum(dim=1) > 0).all())


@pytest.mark.parametrize(("size", "pad"), [(8, 1), (4, 1), (32, 4), (64, 8)])
def test_crop_shifts_by_an_eighth_of_the_size(size: int, pad: int) -> None:
    x = images(3, size=size)
    assert torch.equal(augment(x, ["crop"], 0.08, draws(5)), padded_crop(x, pad, draws(5)))


def test_the_names_select_the_augmentations() -> None:
    x = images()
    assert torch.equal(augment(x, [], 0.08, draws()), x)
    assert torch.equal(augment(x, ["flip"], 0.08, draws(1)), flip(x, draws(1)))
    one_way = augment(x, ["flip", "crop"], 0.2, draws(1))
    assert torch.equal(one_way, augment(x, ["crop", "flip"], 0.2, draws(1)))


SHIFT = torch.tensor([[1 - 2**-24, 0.0, 0.0]])
"""Of the crop of DSA: a pixel down, a pixel left of an image of 8."""


def test_dsa_fills_with_the_mean_of_the_data_set() -> None:
    x = images()
    y = in_space(x, DsaDraw("crop", SHIFT), SPACE)
    assert (y[..., 0] - torch.tensor(MEAN)[:, None]).abs().max() < 1e-6
    assert (y[..., 7, :] - torch.tensor(MEAN)[:, None]).abs().max() < 1e-6
    torch.testing.assert_close(y[..., :7, 1:], x[..., 1:, :7])


def test_dsa_brightens_by_deviations_of_each_channel() -> None:
    """Saturation and contrast of one half and one half are no change."""
    x = images()
    y = in_space(x, DsaDraw("color", torch.tensor([[0.9, 0.5, 0.5]])), SPACE)
    expected = x + 0.4 * torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("op", DSA_OPS)
def test_dsa_draws_one_of_its_operations_last(op: str) -> None:
    x, config = images(), TrainConfig(augment=("dsa", "flip"), dsa_ops=(op,))
    generator = draws(4)
    flipped = flip(x, generator)
    expected = in_space(flipped, draw_dsa([op], len(x), generator), SPACE)
    assert torch.equal(Augmenter.of(config, SPACE)(x, draws(4)), expected)
    assert not torch.equal(expected, flipped)


@pytest.mark.parametrize("lowest", [0, -2])
def test_a_roll_moves_the_whole_batch_by_up_to_the_jitter(lowest: int) -> None:
    x, seen = images(2), set()
    for seed in range(200):
        y = roll(x, 2, draws(seed), two_sided=lowest < 0)
        seen |= {
            (d, r)
            for d in range(-4, 4)
            for r in range(-4, 4)
            if torch.equal(x.roll((d, r), (2, 3)), y)
        }
    assert seen == {(d, r) for d in range(lowest, 3) for r in range(lowest, 3)}


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixing_weights_are_beta_distributed(alpha: float) -> None:
    generator = draws()
    weights = torch.tensor([mixing_weight(alpha, generator) for _ in range(2000)])
    assert 0 <= weights.min() and weights.max() <= 1
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(weights.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e4])
def test_extreme_mixing_weights_stay_finite(alpha: float) -> None:
    assert all(0 <= mixing_weight(alpha, draws(seed)) <= 1 for seed in range(50))


@pytest.mark.parametrize("seed", range(4))
def test_mixup_is_a_weighted_sum(seed: int) -> None:
    x = images()
    mixed, permutation, weight = mix(x, "mixup", 1.0, draws(seed))
    assert sorted(permutation.tolist()) == list(range(len(x)))
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * x + (1 - weight) * x[permutation])


def runs(line: Tensor) -> int:
    """Stretches of True in a line."""
    return int((line[1:] & ~line[:-1]).sum()) + int(line[0])


@pytest.mark.parametrize("seed", range(12))
def test_cutmix_pastes_one_box_and_weighs_its_area(seed: int) -> None:
    x = images(6, size=16)
    mixed, permutation, weight = mix(x, "cutmix", 1.0, draws(seed))
    moved = permutation != torch.arange(6)
    assert moved.any()
    pasted = (mixed != x).any(dim=1)[moved]
    assert bool((pasted == pasted[0]).all())
    box = pasted[0]
    rows, columns = box.any(dim=1), box.any(dim=0)
    assert box.any() and runs(rows) == runs(columns) == 1
    assert torch.equal(box, rows[:, None] & columns[None])
    assert torch.equal(torch.where(box, x[permutation], x), mixed)
    assert weight == pytest.approx(1 - float(box.double().mean()), abs=1e-12)


def test_cutmix_boxes_have_the_drawn_area_unless_the_border_cuts_them() -> None:
    x, surplus = images(4, size=64), []
    for seed in range(60):
        generator = draws(seed)
        torch.randperm(4, generator=generator)
        drawn = mixing_weight(1.0, generator)
        surplus.append(mix(x, "cutmix", 1.0, draws(seed))[2] - drawn)
    assert min(surplus) > -0.03
    assert sum(abs(difference) < 0.03 for difference in surplus) > 10
    assert max(surplus) > 0.1


def cut(image: Tensor, k: int) -> list[list[Tensor]]:
    """Its rows of patches."""
    return [list(row.chunk(k, dim=2)) for row in image.chunk(k, dim=1)]


@pytest.mark.parametrize("k", [2, 4])
def test_a_shuffle_has_the_patches_of_an_image_in_other_rows_and_columns(k: int) -> None:
    x = images(40)
    found, orders = shuffled(x, k, draws(5)), set()
    for image, moved in zip(x, found, strict=True):
        before, after = cut(image, k), cut(moved, k)
        known = {
            part.numpy().tobytes(): (r, c)
            for r, row in enumerate(before)
            for c, part in enumerate(row)
        }
        places = [[known[part.numpy().tobytes()] for part in row] for row in after]
        rows, columns = [row[0][0] for row in places], [column for _, column in places[0]]
        assert places == [[(r, c) for c in columns] for r in rows]
        assert sorted(rows) == sorted(columns) == list(range(k))
        orders.add((*rows, *columns))
    assert len(orders) == 4 if k == 2 else len(orders) > 30


def test_a_shuffle_of_parts_that_are_not_equal_keeps_every_line_together() -> None:
    x = torch.arange(5.0).expand(30, 1, 5, 5)
    seen = {tuple(row) for row in shuffled(x, 2, draws())[:, 0, 0].tolist()}
    assert seen == {(0, 1, 2, 3, 4), (3, 4, 0, 1, 2)}


def test_a_shuffle_comes_before_the_crop_and_its_number_is_that_of_the_config() -> None:
    config = TrainConfig(augment=("flip", "shuffle"), shuffle_patches=4)
    order, x = draws(3), images()
    expected = flip(shuffled(x, 4, order), order)
    assert torch.equal(Augmenter.of(config, SPACE)(x, draws(3)), expected)
