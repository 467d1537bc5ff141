from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from written import pixels

from guard.config import DataConfig
from guard.data import facts
from guard.data.datasets import load_data
from guard.data.facts import channel_statistics, chunks, content_digest, one_coloured
from guard.data.images import TensorImages
from guard.data.sources import digits
from guard.device import threads
from helpers import draws


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws(9))


@pytest.mark.parametrize("summed", [0, 2**20])
def test_channel_statistics(summed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "SUMMED_VALUES", summed)
    x = noise(20, 3, 6, 6)
    x[:, 2] = 51
    mean, std = channel_statistics(x)
    values = x.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert mean == pytest.approx(values.mean(axis=1).tolist(), rel=1e-12)
    assert std[:2] == pytest.approx(values.std(axis=1).tolist()[:2], rel=1e-12)
    assert std[2] == 1e-3


@pytest.mark.parametrize("summed", [0, 2**20])
def test_channel_statistics_do_not_depend_on_threads_or_batches(
    summed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "SUMMED_VALUES", summed)
    x, found = noise(1151, 1, 8, 8), []
    for count, values in ((1, 2**24), (2, 2**24), (3, 64), (1, 1)):
        monkeypatch.setattr(facts, "CHUNK_VALUES", values)
        with threads(count):
            found.append(channel_statistics(x))
    assert found == [found[0]] * 4


def test_statistics_of_large_sets_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "SUMMED_VALUES", 0)
    x = noise(50, 1, 8, 8)
    levels = [Fraction(level, 255) for level in x.flatten().tolist()]
    mean = sum(levels) / len(levels)
    variance = sum((level - mean) ** 2 for level in levels) / len(levels)
    assert channel_statistics(x) == ((float(mean),), (math.sqrt(variance),))


def test_statistics_of_digits_are_to_the_last_bit_what_they_were() -> None:
    splits, official = load_data(DataConfig()), digits().train
    assert isinstance(official, TensorImages)
    with threads(1):
        values = official.x.double().div(255).flatten()
        expected = (float(values.mean()),), (float(values.std(correction=0)),)
    assert (splits.spec.mean, splits.spec.std) == expected


def test_chunks_are_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(10, 3, 4, 4)
    for values, lengths in ((2**24, [10]), (48 * 4, [4, 4, 2]), (1, [1] * 10)):
        monkeypatch.setattr(facts, "CHUNK_VALUES", values)
        assert [len(part) for part in chunks(x)] == lengths
        assert torch.equal(torch.cat(list(chunks(x))), x)


def test_images_of_one_colour_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(9, 3, 4, 4)
    x[2] = 7
    x[5] = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    x[8, :2] = 0
    for values in (2**24, 100):
        monkeypatch.setattr(facts, "CHUNK_VALUES", values)
        assert one_coloured(x).tolist() == [2, 5]


def test_a_content_digest_knows_where_a_part_ends() -> None:
    digests = [content_digest(p) for p in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"])]
    assert len(set(digests)) == 4
    assert content_digest([b"ab", b"c"]) == digests[0]


def test_a_content_digest_is_of_the_bytes_of_arrays() -> None:
    x, y = pixels(1, 5, 2, 3), np.arange(5)
    expected = hashlib.sha256()
    for part in (b"", x.tobytes(), y.tobytes()):
        expected.update(len(part).to_bytes(8, "big") + part)
    assert content_digest([b"", x, y]) == expected.hexdigest()
