"""What the processes of a group have of a batch, and what they say to one another."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from guard.group import ALONE, Group
from helpers import draws
from together import in_threads


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=draws(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [8, 9, 23, 64])
def test_shares_are_a_partition_in_order_and_of_even_size(total: int, size: int) -> None:
    shares = [Group(rank=rank, size=size).share(total) for rank in range(size)]
    rows = [list(range(total))[share.rows] for share in shares]
    assert list(itertools.chain(*rows)) == list(range(total))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert [share.weight for share in shares] == [len(own) / total for own in rows]
    assert not any(share.repeated for share in shares)
    assert all(share.once == 1 for share in shares)


@pytest.mark.parametrize("total", [1, 2])
def test_fewer_rows_than_processes_are_everyones(total: int) -> None:
    shares = [Group(rank=rank, size=3).share(total) for rank in range(3)]
    assert all(list(range(total))[share.rows] == list(range(total)) for share in shares)
    assert all(share.repeated and share.once == share.weight == 1 / 3 for share in shares)


def test_one_process_has_everything_and_asks_nobody() -> None:
    share, values = ALONE.share(5), noise(5, 2)
    assert (share.rows, share.weight) == (slice(0, 5), 1)
    assert torch.equal(share.mean(values), values.mean(dim=0, keepdim=True))
    assert ALONE.gathered(values, share, 5) is values
    kept = values.clone()
    ALONE.sum([values])
    assert torch.equal(values, kept) and ALONE.agrees(3, torch.device("cpu"))


def test_tensors_of_any_shape_are_summed_in_their_place() -> None:
    def work(group: Group) -> list[Tensor]:
        tensors = [noise(3, 2, seed=group.rank), torch.tensor(1.0 + group.rank).double()]
        tensors.append(noise(4, 3, seed=9 + group.rank).T)
        before = list(tensors)
        group.sum(tensors)
        assert all(a is b for a, b in zip(before, tensors, strict=True))
        return tensors

    for matrix, number, turned in in_threads(work, 3):
        torch.testing.assert_close(matrix, noise(3, 2) + noise(3, 2, seed=1) + noise(3, 2, seed=2))
        assert float(number) == 6
        torch.testing.assert_close(turned, sum(noise(4, 3, seed=9 + rank) for rank in range(3)).T)


def quantity(whole: Tensor) -> Tensor:
    """Of all rows at once, that of one row depending on the others."""
    centred = whole - whole.mean(dim=0, keepdim=True)
    return (whole.sigmoid() * centred.square().sum(dim=0)).sum()


def shared_quantity(group: Group, own: Tensor, total: int) -> Tensor:
    """The same, the summand of this process's rows."""
    mean = group.share(total).mean(own)
    return (own.sigmoid() * group.summed((own - mean).square().sum(dim=0))).sum()


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_flow_through_a_sum_any_number_of_times(size: int) -> None:
    """Value, gradient, Hessian-vector product and the derivative of its square."""
    total, vector = 7, noise(7, 2, seed=5)

    def derivatives(value: Tensor, x: Tensor, vector: Tensor) -> list[Tensor]:
        (first,) = grad(value, x, create_graph=True)
        (second,) = grad((first * vector).sum(), x, create_graph=True)
        (third,) = grad(second.square().sum(), x)
        return [first.detach(), second.detach(), third]

    def work(group: Group) -> tuple[Tensor, list[Tensor]]:
        rows = group.share(total).rows
        x = noise(total, 2)[rows].requires_grad_()
        value = shared_quantity(group, x, total)
        return value.detach(), derivatives(value, x, vector[rows])

    x = noise(total, 2).requires_grad_()
    expected = quantity(x)
    found = in_threads(work, size)
    torch.testing.assert_close(sum(value for value, _ in found), expected.detach())
    parts = zip(*(own for _, own in found), strict=True)
    for rows, wanted in zip(parts, derivatives(expected, x, vector), strict=True):
        torch.testing.assert_close(torch.cat(rows), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("total", [2, 3, 7])
def test_rows_are_given_to_one_another(total: int) -> None:
    rows = torch.randint(256, (total, 2, 3), generator=draws(), dtype=torch.uint8)

    def work(group: Group) -> Tensor:
        share = group.share(total)
        return group.gathered(rows[share.rows], share, total)

    assert all(torch.equal(whole, rows) for whole in in_threads(work, 3))


@pytest.mark.parametrize(("numbers", "same"), [((4, 4, 4), True), ((1, 2, 3), False)])
def test_processes_know_whether_they_are_at_the_same_place(
    numbers: tuple[int, ...], same: bool
) -> None:
    cpu = torch.device("cpu")
    assert in_threads(lambda group: group.agrees(numbers[group.rank], cpu), 3) == [same] * 3
