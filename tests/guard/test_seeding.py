from __future__ import annotations

import pytest
import torch

from guard.seeding import derive, fenced, generator


def test_a_seed_is_a_function_of_the_seed_and_its_labels() -> None:
    assert derive(1, "a", 2) == derive(1, "a", 2)
    others = [derive(1, "a", 3), derive(1, "b", 2), derive(2, "a", 2), derive(1, "a"), derive(1)]
    assert len({derive(1, "a", 2), *others}) == 6
    assert all(0 <= seed < 2**63 for seed in others)


def test_generators_are_independent_of_each_other_and_of_the_global_state() -> None:
    before = torch.get_rng_state()
    first, again, other = generator(1, "a"), generator(1, "a"), generator(1, "b")
    draws = [torch.rand(4, generator=g) for g in (first, again, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fence_seeds_inside_and_restores_outside() -> None:
    before = torch.get_rng_state()
    draws = []
    for label in ("a", "a", "b"):
        with fenced(1, label):
            draws.append(torch.rand(4))
            torch.manual_seed(0)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fence_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), fenced(1):
        torch.rand(1)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)
