"""What synthetic images start as."""

from __future__ import annotations

import math

import pytest
import torch
from gradient_matching import LAYER, SPEC, matching, of_class, pixels, splits, start

from guard.errors import DataError
from guard.methods.start import initial_images
from helpers import CPU


def test_noise_is_normal_behind_the_first_layer_and_cut_to_the_pixel_range() -> None:
    u = initial_images("noise", splits(), 300, LAYER, 0, CPU)
    assert u.shape == (3, 300, 3, 8, 8)
    values = u.transpose(0, 2).flatten(1)
    for channel, std in zip(values, SPEC.std, strict=True):
        edge = 0.5 / std
        assert float(channel.max()) == -float(channel.min()) == pytest.approx(edge)
        inside = channel[channel.abs() < edge - 1e-6].sort().values
        normal = torch.distributions.Normal(0, 1)
        low, high = (normal.cdf(torch.tensor(value)) for value in (-edge, edge))
        wanted = torch.linspace(0, 1, len(inside))
        reached = (normal.cdf(inside) - low) / (high - low)
        assert float((reached - wanted).abs().max()) < 1.9 / math.sqrt(len(inside))
        assert len(inside) / len(channel) == pytest.approx(float(high - low), abs=0.005)


def test_real_images_are_distinct_training_images_of_their_class() -> None:
    data = splits(6)
    images = pixels(initial_images("real", data, 5, LAYER, 0, CPU))
    for label, own in enumerate(images):
        differences = (own[:, None] - of_class(data, label)[None]).abs().amax(dim=(2, 3, 4))
        assert float(differences.min(dim=1).values.max()) < 1e-6
        assert len(set(differences.argmin(dim=1).tolist())) == 5


@pytest.mark.parametrize("init", ["noise", "real"])
def test_initial_images_depend_on_the_seed_alone(init: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (start(matching(), init, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_real_images_need_as_many_as_the_set_has() -> None:
    with pytest.raises(DataError, match="has 6 training images, got ipc = 7"):
        initial_images("real", splits(6), 7, LAYER, 0, CPU)
