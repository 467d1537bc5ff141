from __future__ import annotations

import time

import torch

from studies.bench.measuring import account, measure

CPU = torch.device("cpu")


def test_flops_are_two_for_each_multiplication_of_a_product() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert account(lambda: a @ b).flops == 2 * 3 * 5 * 7


def test_flops_count_the_backward_passes_of_a_convolution() -> None:
    x, weight = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(4, 3, 3, 3)
    weight.requires_grad_()
    forward = 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3)

    def both() -> None:
        y = torch.nn.functional.conv2d(x, weight)
        torch.autograd.grad(y.sum(), (x, weight))

    assert account(lambda: torch.nn.functional.conv2d(x, weight)).flops == forward
    assert account(both).flops == 3 * forward


def test_the_peak_is_of_what_lives_at_once() -> None:
    given = torch.zeros(1000)

    def run() -> None:
        for _ in range(5):
            given + 1  # freed at once
        kept = [given + 1, given + 2]
        kept[0].view(10, 100).add_(1)  # no memory of its own
        del kept

    assert account(run).peak == 2 * 4000


def test_ratios_are_to_the_first() -> None:
    costs = measure({"a": lambda: time.sleep(0.01), "b": lambda: time.sleep(0.1)}, 3, CPU)
    assert costs["a"].ratio == 1
    assert costs["b"].ratio > 3
