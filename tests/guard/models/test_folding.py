"""BatchNorm done by the convolution before it."""

from __future__ import annotations

import copy

import pytest
import torch
from specs import spec
from torch import Tensor, nn

from guard.config import ModelConfig
from guard.models.batchnorm import batchnorms
from guard.models.folding import convolved, folded_parameters, folding
from guard.models.networks import build_model
from helpers import draws, randomised

RGB = spec(channels=3, size=32)


def pair(**options: object) -> nn.Sequential:
    convolution = nn.Conv2d(3, 4, 3, **options)  # type: ignore[arg-type]
    return randomised(nn.Sequential(convolution, nn.BatchNorm2d(4)))


def images(count: int = 6, side: int = 8) -> Tensor:
    return torch.rand(count, 3, side, side, generator=draws(), dtype=torch.float64)


class Twice(nn.Module):
    """The convolution's output goes around its BatchNorm too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return y + self.norm(y)


class Again(Twice):
    """One convolution, called twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(self.convolution(x)))


class Undecided(Twice):
    """Cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(("name", "count"), [("bn-convnet", 4), ("convnet", 4), ("resnet18", 20)])
def test_every_batchnorm_of_our_networks_follows_a_convolution(name: str, count: int) -> None:
    model = build_model(ModelConfig(name=name, width=4, norm="batch"), RGB)
    pairs = convolved(model)
    assert [norm for _, norm in pairs] == batchnorms(model) and len(pairs) == count
    assert convolved(model) is pairs
    own = convolved(copy.deepcopy(model))
    assert not {module for each in pairs for module in each} & {m for each in own for m in each}


@pytest.mark.parametrize("network", [Twice, Again, Undecided])
def test_a_batchnorm_that_is_not_alone_stays(network: type[nn.Module]) -> None:
    assert convolved(network()) == []


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4)),
    ],
)
def test_what_no_convolution_can_do_stays(network: nn.Module) -> None:
    assert convolved(network) == []


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"stride": 2, "padding": 1}, {"dilation": 2}]
)
def test_both_together_are_one_convolution(options: dict[str, object]) -> None:
    """In value and in the gradients of all parameters."""
    model, x = pair(**options).eval(), images()
    parameters = list(model.parameters())
    cotangent = torch.rand(model(x).shape, generator=draws(1), dtype=torch.float64)
    expected = torch.autograd.grad((model(x) * cotangent).sum(), parameters)
    with folding(convolved(model)):
        value = model(x)
        found = torch.autograd.grad((value * cotangent).sum(), parameters)
    torch.testing.assert_close(value, model(x))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_grouped_convolution_folds_too() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6))).eval()
    x = images()
    expected = model(x)
    with folding(convolved(model)):
        torch.testing.assert_close(model(x), expected)


def test_the_parameters_are_those_of_the_blocks_beginning() -> None:
    model, x = pair().eval(), images()
    weight, bias = folded_parameters(*convolved(model)[0])
    with folding(convolved(model)):
        nn.init.zeros_(model[1].weight)
        expected = torch.nn.functional.conv2d(x, weight, bias)
        torch.testing.assert_close(model(x), expected)
    assert not torch.allclose(model(x), expected)


def test_a_block_that_fails_leaves_the_network_as_it_was() -> None:
    model, x = pair().eval(), images()
    expected, before = model(x), model.state_dict()
    with pytest.raises(RuntimeError), folding(convolved(model)):
        model(x[:, :1])
    assert torch.equal(model(x), expected)
    assert model.state_dict().keys() == before.keys()
