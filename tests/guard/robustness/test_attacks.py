"""What every attack keeps to, whatever it does."""

from __future__ import annotations

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from attacking import EPS, NORMS, mlp, right_samples, samples, threat, wrong
from torch import Tensor, nn
from torch.nn import functional as F

import guard.robustness.attacks
from guard.config.evaluation import ATTACKS, UNBOUNDED
from guard.robustness.attacks import Attack, ThreatModel, attack_images
from helpers import draws

pytestmark = pytest.mark.usefixtures("fewer_steps")

NAMES = ("pgd5", "margin5", "square40", *ATTACKS)
LINF_ONLY = tuple(name for name, facts in ATTACKS.items() if facts.linf_only)
BOUNDED = [
    (name, norm)
    for norm in NORMS
    for name in NAMES
    if name not in UNBOUNDED and (norm == "Linf" or name not in LINF_ONLY)
]
CASES = [*BOUNDED, *((name, "L2") for name in UNBOUNDED)]
each_attack = pytest.mark.parametrize(("name", "norm"), CASES)
each_bounded_attack = pytest.mark.parametrize(("name", "norm"), BOUNDED)


def test_every_attack_that_a_config_may_name_can_be_built() -> None:
    assert set(guard.robustness.attacks.BUILDS) == set(ATTACKS)


@each_attack
def test_adversarial_images_are_images_in_the_ball(
    name: str, norm: str, victim: SimpleNamespace
) -> None:
    x, y = right_samples(victim, 5)
    moved = attack_images(name, victim.model, x, y, threat(norm), 0)
    assert moved.shape == x.shape and moved.dtype == x.dtype
    assert moved.isfinite().all() and not moved.requires_grad
    assert 0 <= moved.min() and moved.max() <= 1
    distances = threat(norm).distances(x, moved)
    assert name in UNBOUNDED or threat(norm).contains(distances).all()
    assert name in ("square", "square40", "cw") or distances.max() > 0.9 * EPS[norm]


@each_attack
def test_attacks_are_repeatable_and_leave_no_trace(
    name: str, norm: str, victim: SimpleNamespace
) -> None:
    x, y = right_samples(victim, 4)
    model = copy.deepcopy(victim.model)
    model.network[1].weight.requires_grad_(False)
    model.network[1].bias.grad = torch.full_like(model.network[1].bias, 7)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    pixels, state = x.clone(), torch.get_rng_state()
    moved = [attack_images(name, model, x, y, threat(norm), 3) for _ in range(2)]
    assert torch.equal(*moved)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, pixels)
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert not all(trainable)
    gradients = [p.grad for p in model.parameters() if p is not model.network[1].bias]
    assert all(gradient is None for gradient in gradients)
    assert bool((model.network[1].bias.grad == 7).all())
    assert not any(module.training for module in model.modules())


@each_attack
def test_an_attack_on_no_samples_gives_no_images(
    name: str, norm: str, victim: SimpleNamespace
) -> None:
    moved = attack_images(name, victim.model, victim.x[:0], victim.y[:0], threat(norm), 0)
    assert moved.shape == (0, 1, 6, 6)


def count_broken(name: str, ball: ThreatModel, victim: SimpleNamespace) -> int:
    x, y = right_samples(victim, 8)
    moved = attack_images(name, victim.model, x, y, ball, 0)
    return int(wrong(victim.model, moved, y).sum())


@each_bounded_attack
def test_a_point_breaks_nothing_and_a_large_ball_most(
    name: str, norm: str, victim: SimpleNamespace
) -> None:
    assert count_broken(name, threat(norm, scale=0), victim) == 0
    few = name == "square"  # whose windows are still large after so few queries
    assert count_broken(name, threat(norm, scale=2.5), victim) > (0 if few else 4)


def batched(name: str, norm: str, model: nn.Module) -> list[Tensor]:
    """The same images attacked at once, in chunks and in another order."""
    x, y = samples(model)
    ball = threat(norm)
    order = torch.randperm(len(x), generator=draws(1))
    whole = attack_images(name, model, x, y, ball, 0)
    rows = zip(x.split(7), y.split(7), strict=True)
    chunks = torch.cat([attack_images(name, model, *row, ball, 0) for row in rows])
    shuffled = attack_images(name, model, x[order], y[order], ball, 0)
    return [whole, chunks, shuffled[order.argsort()]]


@each_attack
def test_results_depend_neither_on_the_batch_size_nor_on_the_order(name: str, norm: str) -> None:
    is_single = name == "fab-t"
    model = mlp(torch.float32 if is_single else torch.float64)
    whole, chunks, shuffled = batched(name, norm, model)
    tolerance = 1e-5 if is_single else 1e-9
    torch.testing.assert_close(chunks, whole, rtol=0, atol=tolerance)
    torch.testing.assert_close(shuffled, whole, rtol=0, atol=tolerance)
    assert name == "cw" or not torch.equal(whole, samples(model)[0])


@pytest.mark.parametrize(
    "name", ["pgd5", "margin5", "jitter", "vmi", "spsa", "apgd-ce", "apgd-t", "square"]
)
def test_results_depend_on_the_batch_where_draws_are_not_shared(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        guard.robustness.attacks, "shared_draws", lambda seed: contextlib.nullcontext()
    )
    whole, chunks, shuffled = batched(name, "Linf", mlp(torch.float64))
    assert (chunks - whole).abs().max() > 1e-3
    assert (shuffled - whole).abs().max() > 1e-3


def momentum_ascent(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, mean_over: tuple[int, ...]
) -> Tensor:
    """MIM with the gradient divided by its mean magnitude over some dimensions."""
    moved, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(20):
        moved.requires_grad_()
        loss = F.cross_entropy(model(moved), y)
        (gradient,) = torch.autograd.grad(loss, moved)
        momentum = momentum + gradient / gradient.abs().mean(dim=mean_over, keepdim=True)
        moved = moved.detach() + eps / 4 * momentum.sign()
        moved = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
    return moved


class Uneven(nn.Module):
    """A network whose gradient is 1e6 times larger for bright first pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits * torch.where(x[:, :1, 0, 0] > 0.5, 1e6, 1.0)


def uneven_samples() -> tuple[nn.Module, Tensor, Tensor]:
    """The first sample has the large gradient: it is wrong, so its loss does not saturate."""
    model = Uneven(mlp(torch.float64)).eval()
    x, y = samples(model.network)
    x[0, 0, 0, 0], x[1:, 0, 0, 0] = 0.99, 0.01
    return model, x, y


def test_mim_normalizes_the_gradient_of_each_sample() -> None:
    model, x, y = uneven_samples()
    moved = attack_images("mim", model, x, y, ThreatModel(eps=0.3, num_classes=5), 0)
    by_sample = momentum_ascent(model, x, y, 0.3, mean_over=(1, 2, 3))
    by_batch = momentum_ascent(model, x, y, 0.3, mean_over=(0, 1, 2, 3))
    torch.testing.assert_close(moved, by_sample, rtol=0, atol=1e-9)
    assert (moved - by_batch)[1:].abs().max() > 0.01


@pytest.mark.parametrize("name", ["mim", "vmi"])
def test_a_sample_with_a_huge_gradient_does_not_change_its_neighbours(name: str) -> None:
    model, x, y = uneven_samples()
    together = attack_images(name, model, x, y, ThreatModel(eps=0.3, num_classes=5), 0)
    rest = attack_images(name, model, x[1:], y[1:], ThreatModel(eps=0.3, num_classes=5), 0)
    torch.testing.assert_close(together[1:], rest, rtol=0, atol=1e-9)
    assert (together[0] - x[0]).abs().max() > 0.2


def replaced(monkeypatch: pytest.MonkeyPatch, attack: Attack) -> None:
    """Let "fgsm" be another attack."""
    monkeypatch.setitem(guard.robustness.attacks.BUILDS, "fgsm", lambda model, ball: attack)


def test_the_seed_and_the_name_reach_the_random_numbers(
    victim: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        seen.append((torch.rand(3), int(torch.randint(2**40, ()))))
        torch.manual_seed(0)
        return x

    replaced(monkeypatch, attack)
    monkeypatch.setitem(
        guard.robustness.attacks.BUILDS, "mim", guard.robustness.attacks.BUILDS["fgsm"]
    )
    state = torch.get_rng_state()
    for name, seed in (("fgsm", 1), ("fgsm", 1), ("fgsm", 2), ("mim", 1)):
        attack_images(name, victim.model, victim.x, victim.y, threat("Linf"), seed)
    assert torch.equal(seen[0][0], seen[1][0]) and seen[0][1] == seen[1][1]
    for other in seen[2:]:
        assert not torch.equal(seen[0][0], other[0]) and seen[0][1] != other[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_perturbation_that_is_not_finite_is_none(
    bad: float, victim: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = right_samples(victim)
    noise = 4 * torch.rand(x.shape, generator=draws()) - 2

    def attack(x: Tensor, y: Tensor) -> Tensor:
        moved = noise.clone()
        moved[0, 0, 2, 3] = bad
        return moved

    replaced(monkeypatch, attack)
    moved = attack_images("fgsm", victim.model, x, y, threat("Linf"), 0)
    assert torch.equal(moved[0], x[0])
    assert torch.equal(moved[1:], noise[1:].clamp(0, 1))


@each_attack
def test_a_model_without_a_gradient_or_a_boundary_stays_right(name: str, norm: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([3.0, 0.0, 1.0, -1.0, 2.0]))
    x, y = torch.rand(2, 1, 6, 6, generator=draws()), torch.zeros(2, dtype=torch.long)
    moved = attack_images(name, model, x, y, threat(norm), 0)
    assert moved.isfinite().all()
    assert not wrong(model, moved, y).any()
