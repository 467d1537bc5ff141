"""What a trajectory's gradient holds while it is computed, and what it leaves behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from unrolled import convnet, problem

from guard.methods.mtt.trajectory import GRADIENTS, Gradient, adjoint, tesla, unroll


class Held:
    """A tensor that a graph holds for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class SavedMemory:
    """Bytes that graphs hold: now, and at most so far."""

    now = 0
    peak = 0

    def save(self, tensor: Tensor) -> Held:
        held, size = Held(tensor), tensor.numel() * tensor.element_size()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(held, self.release, size)
        return held

    def release(self, size: int) -> None:
        self.now -= size

    def peak_of(self, run: Callable[[], object]) -> int:
        with torch.autograd.graph.saved_tensors_hooks(self.save, lambda held: held.tensor):
            run()
        assert self.now == 0
        return self.peak


def peak_memory(gradient: Gradient, steps: int) -> int:
    given = problem(convnet(), torch.float32, steps)
    return SavedMemory().peak_of(lambda: given.solve(gradient))


@pytest.mark.parametrize("gradient", [adjoint, tesla], ids=["adjoint", "tesla"])
def test_the_sweeps_hold_the_graph_of_one_step(gradient: Gradient) -> None:
    of_one_step = peak_memory(unroll, 1)
    assert peak_memory(gradient, 50) < 1.2 * peak_memory(gradient, 5) < 1.5 * of_one_step


def test_unrolling_holds_the_graphs_of_all_steps() -> None:
    assert peak_memory(unroll, 25) > 4 * peak_memory(unroll, 5)


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_inputs_stay_and_runs_repeat(gradient: Gradient, tracked: bool) -> None:
    given = problem(convnet(norm="batch").train())
    for values in given.inputs:
        values.requires_grad_(tracked)
    state = {name: value.clone() for name, value in given.model.state_dict().items()}
    before, random_state = [values.clone() for values in given.inputs], torch.get_rng_state()
    first, second = given.solve(gradient), given.solve(gradient)
    assert torch.equal(torch.get_rng_state(), random_state)
    for values, old in zip(given.inputs, before, strict=True):
        assert torch.equal(values, old) and values.grad is None
        assert values.requires_grad == tracked
    for name, value in given.model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(parameter.grad is None for parameter in given.model.parameters())
    for name in ("loss", "images", "rate"):
        one, two = getattr(first, name), getattr(second, name)
        assert torch.equal(one, two) and not one.requires_grad


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_have_the_type_of_what_they_are_of(gradient: Gradient) -> None:
    given = problem(convnet(), torch.float32)
    found = replace(given, rate=given.rate.double()).solve(gradient)
    assert found.images.dtype == torch.float32 and found.rate.dtype == torch.float64
    assert found.images.shape == given.images.shape and found.rate.shape == ()


@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
def test_a_student_that_starts_at_the_target_is_refused(gradient: Gradient) -> None:
    given = problem(convnet())
    with pytest.raises(ValueError, match="at the target"):
        replace(given, target=given.theta.clone()).solve(gradient)
