"""Several small images as one, and one as several."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guard.data.tiles import check_tiles, enlarged, resized, tiled
from guard.errors import DataError
from helpers import draws


def test_resizing_keeps_a_plain_colour_and_averages_stripes() -> None:
    assert torch.allclose(resized(torch.full((1, 1, 5, 5), 0.3), 9), torch.tensor(0.3))
    stripes = (torch.arange(16) % 2).float().expand(1, 1, 16, 16)
    inner = resized(stripes, 4)[..., 1:-1]
    assert float((inner - 0.5).abs().max()) < 0.1


def test_tiles_are_laid_row_by_row() -> None:
    small = torch.arange(8.0)[:, None, None, None].expand(8, 2, 3, 3)
    images = tiled(small, 2)
    assert images.shape == (2, 2, 6, 6)
    assert images[:, 1, ::3, ::3].flatten(1).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert torch.equal(tiled(small, 1), small)


def bilinear(image: np.ndarray, factor: int) -> np.ndarray:
    """Of one channel (s, s), with half-pixel centers, one pixel at a time."""
    side = len(image)
    found = np.zeros((factor * side, factor * side))
    for row in range(factor * side):
        for column in range(factor * side):
            weights = []
            for place in (row, column):
                position = min(max((place + 0.5) / factor - 0.5, 0), side - 1)
                before = min(int(position), side - 2)
                weights.append((before, position - before))
            (r, a), (c, b) = weights
            corner = image[r : r + 2, c : c + 2]
            found[row, column] = np.array([1 - a, a]) @ corner @ np.array([1 - b, b])
    return found


@pytest.mark.parametrize("k", [2, 3])
def test_parts_are_enlarged_bilinearly_in_the_order_of_the_tiles(k: int) -> None:
    small = torch.rand(2 * k * k, 1, 4, 4, generator=draws(), dtype=torch.float64)
    found = enlarged(tiled(small, k), k)
    assert found.shape == (2, k * k, 1, 4 * k, 4 * k)
    for ours, part in zip(found.flatten(0, 1), small, strict=True):
        np.testing.assert_allclose(ours[0].numpy(), bilinear(part[0].numpy(), k), atol=1e-6)


def test_one_part_is_the_image_itself() -> None:
    x = torch.rand(2, 3, 5, 5, generator=draws())
    assert torch.equal(enlarged(x, 1)[:, 0], x)


def test_parts_are_differentiable_in_the_image() -> None:
    x = torch.rand(1, 2, 4, 4, generator=draws(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: enlarged(x, 2), (x,))


def test_images_that_do_not_divide_are_named_in_one_line() -> None:
    check_tiles("tiles", 2, 32)
    with pytest.raises(DataError, match=r"^tiles: images of 9 px do not divide into 2 by 2$"):
        check_tiles("tiles", 2, 9)
