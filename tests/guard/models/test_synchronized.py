"""BatchNorm by the statistics of what all processes of a group get."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad

from guard.group import ALONE, Group
from guard.models.batchnorm import batchnorms
from guard.models.folding import convolved
from guard.models.modes import (
    constant_statistics,
    own_statistics,
    recorded_statistics,
    statistics_of,
)
from guard.models.synchronized import (
    SynchronizedBatchNorm,
    group_statistics,
    normalised_as,
    synchronize,
    unsynchronized,
)
from helpers import draws, randomised
from together import in_threads, joined, synchronized


def network(seed: int = 0) -> nn.Sequential:
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Softplus()]
    layers += [nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4, momentum=0.3), nn.Flatten()]
    model: nn.Sequential = randomised(nn.Sequential(*layers), seed)
    return model


def images(count: int = 7) -> Tensor:
    return 3 + torch.randn(count, 2, 5, 5, generator=draws(3), dtype=torch.float64)


def trace(model: nn.Module, x: Tensor, group: Group = ALONE) -> list[Tensor]:
    """Logits and the gradient of a loss in x; then the gradients, in x and in every parameter, of
    what is made of both and of the loss's gradients in the parameters."""
    x, parameters = x.clone().requires_grad_(), list(model.parameters())
    logits = model(x)
    loss = logits.sigmoid().square().sum()
    first, *own = grad(loss, [x, *parameters], create_graph=True)
    by_parameters = sum(group.summed(gradient).sin().sum() for gradient in own) / group.size
    value = first.square().sum() + logits.square().sum() + by_parameters
    return [logits.detach(), first.detach(), *grad(value, [x, *parameters])]


def in_shares(model: nn.Module, x: Tensor, size: int) -> tuple[list[list[Tensor]], list[nn.Module]]:
    copies = synchronized(model, size)

    def work(group: Group) -> list[Tensor]:
        share, own = group.share(len(x)), joined(copies, group)
        with normalised_as(own, share):
            return trace(own, x[share.rows], Group() if share.repeated else group)

    return in_threads(work, size), copies


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("tracks", [True, False])
def test_it_is_batchnorm_of_the_whole_batch(size: int, tracks: bool) -> None:
    """To the second derivative, with the same running statistics after it."""
    model = network().train()
    for bn in batchnorms(model):
        bn.track_running_stats = tracks
    found, copies = in_shares(model, images(), size)
    logits, first, by_x, *second = trace(model, images())
    for number, wanted in enumerate((logits, first, by_x)):
        rows = torch.cat([own[number] for own in found])
        torch.testing.assert_close(rows, wanted, rtol=1e-9, atol=1e-11)
    for number, wanted in enumerate(second):
        summed = sum(own[3 + number] for own in found)
        torch.testing.assert_close(summed, wanted, rtol=1e-9, atol=1e-10)
    for own in copies:
        assert list(own.state_dict()) == list(model.state_dict())
        for name, value in model.state_dict().items():
            torch.testing.assert_close(own.state_dict()[name], value, rtol=1e-12, atol=1e-14)


def test_a_batch_that_everyone_has_is_counted_once() -> None:
    model = network().train()
    found, copies = in_shares(model, images(2), 3)
    wanted = trace(model, images(2))
    for own, module in zip(found, copies, strict=True):
        assert all(map(torch.equal, own, wanted))
        assert all(map(torch.equal, module.buffers(), model.buffers()))
        assert not any(bn.apart for bn in module.modules() if isinstance(bn, SynchronizedBatchNorm))


def test_large_means_leave_the_variance_alone() -> None:
    """Of float32 values around 1,000 with deviation 1."""
    x = 1000 + torch.randn(8, 3, 4, 4, generator=draws())

    def work(group: Group) -> Tensor:
        return group_statistics(x[group.share(len(x)).rows], group)[1]

    wanted = x.double().var(dim=(0, 2, 3), correction=0).float()
    for variance in in_threads(work, 2):
        torch.testing.assert_close(variance, wanted, rtol=1e-4, atol=0)


def test_half_precision_is_normalised_in_single() -> None:
    x = images().to(torch.bfloat16)
    copies = synchronized(nn.Sequential(nn.BatchNorm2d(2)), 2)
    found = in_threads(lambda g: joined(copies, g)(x[g.share(len(x)).rows]), 2)
    wanted = nn.BatchNorm2d(2)(x.float()).to(torch.bfloat16)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat(found), wanted, rtol=0.02, atol=0.02)


def modes(model: nn.Module, x: Tensor, around: Callable[[nn.Module], object]) -> Tensor:
    with around(model):  # type: ignore[attr-defined]
        output: Tensor = model(x)
    return output


@pytest.mark.parametrize("around", [constant_statistics, own_statistics])
def test_every_mode_of_a_penalty_is_that_of_the_whole_batch(
    around: Callable[[nn.Module], object],
) -> None:
    model, x = network().train(), images()
    copies = synchronized(model, 2)
    found = in_threads(lambda g: modes(joined(copies, g), x[g.share(7).rows], around), 2)
    torch.testing.assert_close(torch.cat(found), modes(model, x, around), rtol=1e-10, atol=1e-12)
    for own in copies:
        assert all(map(torch.equal, own.buffers(), model.buffers()))


def test_recorded_statistics_are_of_the_whole_batch() -> None:
    model, x = network().train(), images()
    copies = synchronized(model, 2)

    def work(group: Group) -> list[Tensor]:
        own, rows = joined(copies, group), group.share(len(x)).rows
        with recorded_statistics(own) as recorded:
            own(x[rows])
        return [value for pair in (*recorded, *statistics_of(own, x[rows])) for value in pair]

    with recorded_statistics(model) as recorded:
        model(x)
    wanted = [value for pair in (*recorded, *statistics_of(model, x)) for value in pair]
    for found in in_threads(work, 2):
        for value, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)


def test_the_convolution_before_it_does_its_work_in_evaluation() -> None:
    model = network()
    twin = copy.deepcopy(model)
    synchronize(twin, Group())
    assert [norm for _, norm in convolved(twin)] == batchnorms(twin)
    with constant_statistics(twin):
        folded = twin(images())
    torch.testing.assert_close(folded, model.eval()(images()), rtol=1e-10, atol=1e-12)


def test_what_is_synchronized_needs_no_mean_of_its_statistics() -> None:
    model = network()
    assert len(unsynchronized(model)) == 4
    parameters = list(model.parameters())
    synchronize(model, Group())
    assert unsynchronized(model) == []
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
