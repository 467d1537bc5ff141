"""Attacks that are our own, wholly or in part: PGD, DeepFool, CW."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from attacking import each_norm, right_samples, threat, wrong
from torch import Tensor, nn
from torch.nn import functional as F

import guard.robustness.attacks
from guard.models.networks import frozen
from guard.norms import unit
from guard.robustness.attacks import Attack, CarliniWagner, ThreatModel, attack_images, build_attack
from guard.robustness.attacks.pgd import Objective, ProjectedGradient
from guard.seeding import fenced
from guard.training.losses import margins
from helpers import draws


def perturb(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    with fenced(seed), frozen(model):
        return attack(x, y).detach()


def test_deepfool_ends_clear_of_the_boundary(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim, 8)
    moved = attack_images("deepfool", victim.model, x, y, threat("L2"), 0)
    before = margins(victim.model(x), y)
    together = margins(victim.model(moved), y)
    alone = torch.cat([margins(victim.model(moved[i : i + 1]), y[i : i + 1]) for i in range(8)])
    for after in (together, alone):
        assert bool((after < -0.005 * before).all())


def test_deepfool_goes_little_further_than_the_boundary() -> None:
    model = linear().float()
    x, y = boxes(0.05, 0.3).float(), torch.tensor([0, 1])
    moved = attack_images(
        "deepfool", model, x, y, ThreatModel(eps=0.1, num_classes=2, norm="L2"), 0
    )
    assert wrong(model, moved, y).all()
    nearest = (4 * x[:, 0, 0, 0] - 0.5).abs() / 2
    distance = (moved - x).flatten(1).norm(dim=1)
    assert bool((distance > nearest).all()) and bool((distance < 1.05 * nearest).all())


def test_deepfool_leaves_what_is_wrong_already(victim: SimpleNamespace) -> None:
    is_wrong = wrong(victim.model, victim.x, victim.y)
    x, y = victim.x[is_wrong], victim.y[is_wrong]
    assert torch.equal(attack_images("deepfool", victim.model, x, y, threat("L2"), 0), x)
    assert len(x) > 0


class Sure(nn.Module):
    """`linear()` in float32 with logits so far apart that the softmax is exactly one-hot."""

    def __init__(self) -> None:
        super().__init__()
        self.network = linear().float()

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.network(x)


@each_norm
def test_the_margin_still_moves_a_sample_without_a_cross_entropy_gradient(norm: str) -> None:
    model = Sure().eval()
    x, y = boxes(0.3, 0.31, 0.32).float(), torch.tensor([1, 1, 1])
    ball = ThreatModel(eps={"Linf": 0.2, "L2": 0.5}[norm], num_classes=2, norm=norm)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    assert gradient.count_nonzero() == 0
    plain = attack_images("pgd20", model, x, y, ball, 0)
    assert not wrong(model, plain, y).any()
    assert wrong(model, attack_images("margin20", model, x, y, ball, 0), y).all()


@each_norm
def test_pgd_without_a_gradient_stays_at_its_start(norm: str) -> None:
    model, x, y = Sure().eval(), boxes(0.3).float(), torch.tensor([1])
    ball = ThreatModel(eps=0.05, num_classes=2, norm=norm)
    few, many = (guard.robustness.attacks.pgd(model, ball, steps) for steps in (1, 20))
    assert torch.equal(perturb(few, model, x, y), perturb(many, model, x, y))
    assert not torch.equal(perturb(few, model, x, y), x)
    objective: Objective = "margin"
    few, many = (ProjectedGradient(model, norm, 0.05, k, objective) for k in (1, 20))
    assert not torch.equal(perturb(few, model, x, y), perturb(many, model, x, y))


class Seen(nn.Module):
    """A model that remembers what it was asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach().clone())
        return self.model(x)


@pytest.mark.parametrize("objective", ["cross-entropy", "margin"])
@each_norm
def test_steps_are_a_quarter_of_the_radius_and_end_at_the_ball(
    norm: str, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Seen(linear())
    x, y = boxes(0.5, 0.7).contiguous(), torch.tensor([1, 1])
    attack = ProjectedGradient(model, norm, 0.08, 6, objective)
    monkeypatch.setattr(attack, "start", torch.clone)
    moved = perturb(attack, model, x, y)
    ball = ThreatModel(eps=0.08, num_classes=2, norm=norm)
    lengths = torch.stack([ball.distances(x, seen) for seen in model.inputs])
    expected = torch.tensor([0, 0.02, 0.04, 0.06, 0.08, 0.08, 0.08]).double()
    torch.testing.assert_close(lengths, expected[:, None].expand(7, 2), rtol=1e-6, atol=1e-9)
    assert torch.equal(moved, model.inputs[-1])


@each_norm
def test_random_starts_fill_the_ball_inside_the_box(norm: str, victim: SimpleNamespace) -> None:
    attack = ProjectedGradient(victim.model, norm, 0.5, 1, "margin")
    ball = ThreatModel(eps=0.5, num_classes=5, norm=norm)
    x = torch.full((500, 1, 2, 2), 0.5)
    with fenced(0):
        starts, at_the_end = attack.start(x), attack.start(torch.zeros_like(x))
    assert ball.contains(ball.distances(x, starts)).all()
    lengths = ball.distances(x, starts)
    assert lengths.max() > 0.45
    if norm == "L2":
        assert lengths.min() < 0.05 and abs(float(lengths.mean()) - 0.25) < 0.03
    assert abs(float((starts - x).mean())) < 0.03
    assert at_the_end.min() == 0 and at_the_end.max() <= 0.5


class Window(nn.Module):
    """Wrong, for label 0, only where the first pixel is in a narrow window that the gradient
    leads through."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        is_inside = (pixel > 0.45) & (pixel < 0.55)
        margin = 1 - pixel - 2 * is_inside
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


@each_norm
def test_the_first_success_is_kept(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Seen(Window())
    x, y = boxes(0.3, 0.0).contiguous(), torch.tensor([0, 0])
    attack = ProjectedGradient(model, norm, 0.36, 8, "margin")
    monkeypatch.setattr(attack, "start", torch.clone)
    moved = perturb(attack, model, x, y)
    pixels = [float(seen[0, 0, 0, 0]) for seen in model.inputs]
    assert pixels[:3] == pytest.approx([0.3, 0.39, 0.48]) and pixels[-1] > 0.6
    assert torch.equal(moved[0], model.inputs[2][0])
    assert torch.equal(moved[1], model.inputs[-1][1])


@each_norm
def test_an_attack_ends_when_every_sample_is_broken(norm: str) -> None:
    model = Seen(linear())
    x, y = boxes(0.12, 0.2).contiguous(), torch.tensor([0, 1])
    perturb(ProjectedGradient(model, norm, 0.4, 50, "margin"), model, x, y)
    assert len(model.inputs) < 10


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_directions_have_unit_length_at_any_scale(scale: float) -> None:
    values = scale * torch.randn(4, 1, 3, 3, generator=draws())
    values[1] = 0
    lengths = unit(values).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.0, 1.0, 1.0]))


def linear(bias: float = 0.0) -> nn.Module:
    """Two classes: the sign of the sum of the pixels less one half."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 4))
        model[1].bias.copy_(torch.tensor([0.5 + bias, -0.5 + bias]))
    return model.eval()


def strong_cw(model: nn.Module) -> CarliniWagner:
    return CarliniWagner(model, c=10, steps=200, lr=0.1)


def boxes(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 2, 2)


def test_margins_are_of_the_label_over_the_best_other_class() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [-5.0, -1.0, -2.0], [0.0, 0.0, -9.0]])
    assert margins(logits, torch.tensor([0, 0, 1])).tolist() == [1.0, -4.0, 0.0]


def test_cw_finds_close_to_the_nearest_point_of_the_boundary() -> None:
    x = boxes(0.05, 0.3).contiguous()
    y = torch.tensor([0, 1])
    adversarial = perturb(strong_cw(linear()), linear(), x, y)
    assert torch.equal(linear()(adversarial).argmax(dim=1), 1 - y)
    distance = (adversarial - x).flatten(1).norm(dim=1)
    nearest = (4 * x[:, 0, 0, 0] - 0.5).abs() / 2
    assert bool((distance >= nearest - 1e-9).all())
    assert bool((distance < 1.15 * nearest).all())


@pytest.mark.parametrize("bias", [-100.0, -1.0, 100.0])
def test_cw_does_not_depend_on_a_shift_of_all_logits(bias: float) -> None:
    x, y = boxes(0.05, 0.3, 0.1).contiguous(), torch.tensor([0, 1, 0])
    shifted, plain = (perturb(strong_cw(linear(b)), linear(b), x, y) for b in (bias, 0.0))
    torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-6)
    assert (plain - x).flatten(1).norm(dim=1).min() > 0.01


@pytest.mark.parametrize(
    ("value", "movement"), [(0.0, 1e-5), (1.0, 1e-5), (0.05, 0.1), (0.5, 0.23)]
)
def test_cw_of_the_suite_hardly_moves_pixels_at_the_ends_of_the_range(
    value: float, movement: float
) -> None:
    x, y = boxes(value).contiguous(), torch.tensor([int(value >= 0.5)])
    model = Seen(linear())
    perturb(CarliniWagner(model, c=1e6, steps=50, lr=0.01), model, x, y)
    furthest = max(float((seen - x).abs().max()) for seen in model.inputs)
    assert movement / 10 < furthest < movement


def test_cw_on_a_sample_does_not_depend_on_its_batch(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    model = copy.deepcopy(victim.model).double()
    attack = CarliniWagner(model, c=1, steps=40, lr=0.05)
    together = perturb(attack, model, x.double(), y)
    alone = [perturb(attack, model, x[i : i + 1].double(), y[i : i + 1]) for i in range(3)]
    assert (together - x).flatten(1).norm(dim=1).min() > 0
    torch.testing.assert_close(torch.cat(alone), together[:3], rtol=0, atol=1e-7)


def test_cw_keeps_the_image_where_it_finds_nothing(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    attack = CarliniWagner(victim.model, c=1e-4, steps=2, lr=1e-4)
    assert torch.equal(perturb(attack, victim.model, x, y), x)


def test_cw_of_the_suite_is_that_of_guards_evaluation(victim: SimpleNamespace) -> None:
    attack = build_attack("cw", victim.model, ThreatModel(eps=0.1, num_classes=5))
    assert isinstance(attack, CarliniWagner)
    assert (attack.c, attack.steps, attack.lr) == (1e-4, 50, 0.01)
