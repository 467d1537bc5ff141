"""SPSA: what it asks, what it estimates, and that it needs no gradient."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from attacking import mlp, right_samples, samples, threat, wrong
from torch import Tensor, nn

from guard.config.evaluation import passes_of
from guard.robustness.attacks import Counted, ThreatModel, attack_images
from guard.robustness.attacks.draws import shared_draws
from guard.robustness.attacks.spsa import DELTA, SPSA_DIRECTIONS, SPSA_STEPS, Spsa
from guard.training.losses import margins


class Asked(nn.Module):
    """A network that keeps what it was asked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.clone())
        return self.network(x)


class Stepped(nn.Module):
    """A network that sees pixels in 64 levels: its gradient is zero wherever there is one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((64 * x).round() / 64)


def test_the_estimate_is_the_mean_of_differences_along_its_directions() -> None:
    model = mlp(torch.float64)
    x, y = samples(model)
    asked = Asked(model)
    with shared_draws(3), torch.no_grad():
        found = Spsa(asked, 0.1).estimate(x, y)
    pairs = list(zip(asked.inputs[::2], asked.inputs[1::2], strict=True))
    assert len(pairs) == SPSA_DIRECTIONS
    expected = torch.zeros_like(x)
    for up, down in pairs:
        direction = (up - down) / (2 * DELTA)
        torch.testing.assert_close(direction.abs(), torch.ones_like(x), rtol=0, atol=1e-9)
        torch.testing.assert_close(direction, direction[:1].expand_as(x), rtol=0, atol=1e-9)
        rise = margins(model(down), y) - margins(model(up), y)
        expected += (rise / (2 * DELTA))[:, None, None, None] * direction / SPSA_DIRECTIONS
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-9)


def test_many_estimates_are_the_gradient_of_the_margin() -> None:
    model = mlp(torch.float64)
    x, y = samples(model)
    with shared_draws(0), torch.no_grad():
        found = torch.stack([Spsa(model, 0.1).estimate(x, y) for _ in range(60)]).mean(dim=0)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-margins(model(leaf), y).sum(), leaf)
    cosine = torch.cosine_similarity(found.flatten(1), gradient.flatten(1))
    assert bool((cosine > 0.95).all())


def test_it_breaks_about_what_pgd_breaks_within_the_ball(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    ball = threat("Linf")
    moved = attack_images("spsa", victim.model, x, y, ball, 0)
    assert bool(ball.contains(ball.distances(x, moved)).all())
    assert moved.min() >= 0 and moved.max() <= 1
    broken, by_pgd = (
        wrong(victim.model, found, y).float().mean()
        for found in (moved, attack_images("margin20", victim.model, x, y, ball, 0))
    )
    assert by_pgd > 0.3 and broken > by_pgd - 0.2


def test_it_needs_no_gradient(victim: SimpleNamespace) -> None:
    model = Stepped(victim.model).eval()
    x, y = right_samples(victim)
    held = model(x).argmax(dim=1) == y
    x, y = x[held], y[held]
    ball = threat("Linf")
    blind = wrong(model, attack_images("margin20", model, x, y, ball, 0), y)
    assert int(wrong(model, attack_images("spsa", model, x, y, ball, 0), y).sum()) > int(
        blind.sum()
    )


def test_it_stops_at_a_network_that_says_the_same_of_everything() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    x = torch.rand(3, 1, 4, 4)
    ball = ThreatModel(eps=0.1, num_classes=2)
    assert torch.equal(attack_images("spsa", Same(), x, torch.zeros(3).long(), ball, 0), x)


def test_what_survives_costs_what_the_table_says() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[9.0, 0.0]]).expand(len(x), 2) + x[:, :1, 0, 0]

    counted = Counted(Sure())
    x = torch.rand(3, 1, 4, 4)
    attack_images("spsa", counted, x, torch.zeros(3).long(), ThreatModel(eps=0.1, num_classes=2), 0)
    assert passes_of("spsa") == SPSA_STEPS * (2 * SPSA_DIRECTIONS + 1)
    assert counted.forward_passes == 3 * passes_of("spsa") and counted.backward_passes == 0
