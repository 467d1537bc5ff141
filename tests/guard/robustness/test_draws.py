from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from guard.robustness.attacks.draws import DRAWS as REPLACED
from guard.robustness.attacks.draws import shared_draws
from guard.seeding import fenced

Draw = Callable[[int], Tensor]
"""Images or rows of logits for so many samples."""

ROW = (2, 5, 4)
UNIFORM: dict[str, Draw] = {
    "rand of sizes": lambda n: torch.rand(n, *ROW),
    "rand of a list": lambda n: torch.rand([n, *ROW]),
    "rand of a shape": lambda n: torch.rand(torch.empty(n, *ROW).shape),
    "rand of logits": lambda n: torch.rand(n, 40),
    "rand_like": lambda n: torch.rand_like(torch.empty(n, *ROW)),
    "uniform_": lambda n: torch.empty(n, *ROW).uniform_(),
}
NORMAL: dict[str, Draw] = {
    "randn": lambda n: torch.randn(n, *ROW),
    "randn of a shape": lambda n: torch.randn(torch.empty(n, *ROW).shape),
    "randn_like": lambda n: torch.randn_like(torch.empty(n, *ROW)),
    "randn_like of logits": lambda n: torch.randn_like(torch.empty(n, 40)),
    "normal_": lambda n: torch.empty(n, *ROW).normal_(),
}
BETWEEN: dict[str, Draw] = {
    "positions": lambda n: torch.empty(n, *ROW).uniform_(-3, -2),
    "names": lambda n: torch.empty(n, *ROW).uniform_(**{"from": -3, "to": -2}),
    "a position and a name": lambda n: torch.empty(n, *ROW).uniform_(-3, to=-2),
    "after a normal draw": lambda n: torch.randn_like(torch.empty(n, *ROW)).uniform_(-3, -2),
}
DRAWS = {**UNIFORM, **NORMAL, **{f"uniform_ by {name}": draw for name, draw in BETWEEN.items()}}


def shared(draw: Draw, samples: int = 3, seed: int = 0) -> Tensor:
    with shared_draws(seed):
        return draw(samples)


def is_repeated(drawn: Tensor) -> bool:
    return torch.equal(drawn, drawn[:1].expand_as(drawn))


def test_every_kind_of_draw_is_tried() -> None:
    names = {name.split(" ")[0] for name in DRAWS}
    assert names == {name for _, name in REPLACED}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_sample_gets_the_same_numbers(draw: Draw) -> None:
    drawn = shared(draw)
    assert is_repeated(drawn)
    assert len(drawn[0].unique()) == drawn[0].numel() == 40
    assert not is_repeated(draw(3))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_numbers_do_not_depend_on_the_batch_size(draw: Draw) -> None:
    alone = shared(draw, 1)
    for samples in (2, 7, 0):
        assert torch.equal(shared(draw, samples), alone.expand(samples, *alone.shape[1:]))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_seed_decides_the_numbers(draw: Draw) -> None:
    assert torch.equal(shared(draw, seed=1), shared(draw, seed=1))
    assert not torch.equal(shared(draw, seed=1), shared(draw, seed=2))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_follow_one_another(draw: Draw) -> None:
    with shared_draws(0):
        first, second = draw(2), draw(5)
    assert not torch.equal(first[0], second[0])
    with shared_draws(0):
        assert torch.equal(draw(5)[0], first[0])
        assert torch.equal(draw(1)[0], second[0])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_numbers_do_not_come_from_the_global_generator(draw: Draw) -> None:
    drawn = []
    for seed in (1, 2):
        with fenced(seed):
            drawn.append(shared(draw))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_global_generator_is_not_touched(draw: Draw) -> None:
    state = torch.get_rng_state()
    shared(draw)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draw", UNIFORM.values(), ids=UNIFORM)
def test_uniform_numbers_fill_the_unit_interval(draw: Draw) -> None:
    drawn = shared(draw)
    assert 0 <= drawn.min() < 0.25 and 0.75 < drawn.max() < 1


@pytest.mark.parametrize("draw", BETWEEN.values(), ids=BETWEEN)
def test_uniform_numbers_fill_the_interval_that_is_asked_for(draw: Draw) -> None:
    drawn = shared(draw)
    assert -3 <= drawn.min() < -2.75 and -2.25 < drawn.max() <= -2


@pytest.mark.parametrize("draw", NORMAL.values(), ids=NORMAL)
def test_normal_numbers_have_both_signs_and_deviation_one(draw: Draw) -> None:
    drawn = torch.stack([shared(draw, 1, seed) for seed in range(50)])
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 1) < 0.1
    assert float(drawn.abs().max()) > 2.5


@pytest.mark.parametrize(
    "moments", [{"mean": 7, "std": 0.1}, {"mean": 7}, {"std": 0.1}], ids=lambda m: "-".join(m)
)
def test_normal_numbers_have_the_moments_that_are_asked_for(moments: dict[str, float]) -> None:
    drawn = shared(lambda samples: torch.empty(samples, 4000).normal_(**moments), 1)
    assert float(drawn.mean()) == pytest.approx(moments.get("mean", 0), abs=0.1)
    assert float(drawn.std()) == pytest.approx(moments.get("std", 1), rel=0.1)


@pytest.mark.parametrize("shape", [(6,), (3, 5, 4), (2, 3, 4, 5, 6)])
def test_other_draws_are_not_repeated(shape: tuple[int, ...]) -> None:
    drawn = shared(lambda samples: torch.rand(shape))
    assert drawn.shape == shape
    assert not is_repeated(drawn)
    assert torch.equal(drawn, shared(lambda samples: torch.rand(*shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_keeps_its_type_and_is_written_in_place(dtype: torch.dtype) -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=dtype)
    with shared_draws(0):
        drawn = images.uniform_(1, 2)
        other = torch.rand(3, 1, 2, 2, dtype=dtype)
    assert drawn is images and is_repeated(images) and images.min() >= 1
    assert other.dtype == dtype


def test_nothing_is_shared_outside_of_the_block() -> None:
    with pytest.raises(ZeroDivisionError), shared_draws(0):
        _ = 1 / 0
    assert not is_repeated(torch.rand(3, 40))


def test_other_threads_draw_as_ever() -> None:
    with shared_draws(0), ThreadPoolExecutor(1) as pool:
        assert not is_repeated(pool.submit(torch.rand, 3, 40).result())


def test_torch_is_as_before_after_the_block() -> None:
    before = {place: getattr(*place) for place in REPLACED}
    shared(UNIFORM["rand of sizes"])
    assert all(getattr(*place) is original for place, original in before.items())


def test_other_functions_are_left_alone() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    with shared_draws(0):
        assert torch.equal(torch.zeros(3, 2) + x.exp().log().round(), x)
