"""A network that is called with a vector in place of its parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from unrolled import convnet

from guard.methods.mtt.trajectory import call, flat_parameters
from guard.models.batchnorm import batchnorms
from helpers import draws


def test_a_vector_takes_the_place_of_the_parameters() -> None:
    model, x = convnet(), torch.rand(5, 3, 8, 8, generator=draws())
    theta = flat_parameters(model)
    assert torch.equal(theta, nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(call(model, theta, x), model(x))
    other = copy.deepcopy(model)
    nn.utils.vector_to_parameters(theta + 0.1, other.parameters())
    assert torch.equal(call(model, theta + 0.1, x), other(x))
    assert torch.equal(flat_parameters(model), theta)
    theta.requires_grad_()
    (found,) = torch.autograd.grad(call(model, theta, x).logsumexp(1).sum(), theta)
    wanted = torch.autograd.grad(model(x).logsumexp(1).sum(), list(model.parameters()))
    assert torch.equal(found, torch.cat([part.flatten() for part in wanted]))


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_vector_of_another_model_is_refused(surplus: int) -> None:
    model = convnet()
    theta = torch.zeros(len(flat_parameters(model)) + surplus)
    with pytest.raises(RuntimeError, match="split_sizes"):
        call(model, theta, torch.rand(1, 3, 8, 8))


def test_running_statistics_are_read_and_not_written() -> None:
    model, x = convnet(norm="batch"), torch.rand(5, 3, 8, 8, generator=draws())
    batchnorms(model)[0].running_mean.fill_(0.5)
    theta = flat_parameters(model)
    state = copy.deepcopy(model.state_dict())
    assert torch.equal(call(model.eval(), theta, x), model(x))
    in_training = call(model.train(), theta, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(in_training, model(x))
