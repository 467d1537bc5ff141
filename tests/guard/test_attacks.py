from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torchattacks
from torch import Tensor, nn

import guard.attacks
from guard.attacks import Attack, CarliniWagner, ThreatModel, build_attacks, survivors
from guard.config.common import ATTACKS
from guard.models import frozen
from guard.seeding import fenced

NAMES = ("pgd5", *ATTACKS)


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.attacks, "SQUARE_QUERIES", 60)
    monkeypatch.setattr(guard.attacks, "AUTOATTACK_STEPS", 6)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right_samples(victim: SimpleNamespace) -> tuple[Tensor, Tensor]:
    right = victim.model(victim.x).argmax(dim=1) == victim.y
    return victim.x[right], victim.y[right]


def perturb(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    with fenced(seed), frozen(model):
        return attack(x, y).detach()


@pytest.mark.parametrize("name", NAMES)
def test_adversarial_images_stay_in_the_box_and_the_ball(
    name: str, victim: SimpleNamespace
) -> None:
    x, y = right_samples(victim)
    for attack in build_attacks(name, victim.model, ThreatModel(victim.eps, 5)):
        adversarial = perturb(attack, victim.model, x, y)
        assert adversarial.shape == x.shape and adversarial.isfinite().all()
        assert 0 <= adversarial.min() and adversarial.max() <= 1
        if name != "cw":
            assert (adversarial - x).abs().max() <= victim.eps + 1e-6


@pytest.mark.parametrize("name", ["pgd5", "mim", "square", "autoattack"])
def test_each_attack_of_a_suite_fools_some_samples(name: str, victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    for attack in build_attacks(name, victim.model, ThreatModel(0.25, 5)):
        survived = survivors(attack, victim.model, x, y, 0)
        assert int(survived.sum()) < 0.5 * len(y)


@pytest.mark.parametrize("name", NAMES)
def test_survivors_are_repeatable_and_leave_no_trace(name: str, victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    model = victim.model
    model.network[1].weight.requires_grad_(False)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    pixels, state = x.clone(), torch.get_rng_state()
    verdicts = []
    for _ in range(2):
        attacks = build_attacks(name, model, ThreatModel(victim.eps, 5))
        verdicts.append(torch.stack([survivors(a, model, x, y, 3) for a in attacks]))
    try:
        assert torch.equal(verdicts[0], verdicts[1])
        assert verdicts[0].shape[1:] == y.shape and verdicts[0].dtype == torch.bool
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(x, pixels)
        assert [parameter.requires_grad for parameter in model.parameters()] == trainable
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not model.training
    finally:
        model.network[1].weight.requires_grad_(True)


@pytest.mark.parametrize("steps", [1, 20, 100])
@pytest.mark.parametrize("eps", [1 / 255, 0.1])
def test_pgd_steps_a_quarter_of_the_radius_from_a_random_start(
    steps: int, eps: float, victim: SimpleNamespace
) -> None:
    (attack,) = build_attacks(f"pgd{steps}", victim.model, ThreatModel(eps, 5))
    assert isinstance(attack, torchattacks.PGD)
    assert (attack.eps, attack.alpha, attack.steps) == (eps, eps / 4, steps)
    assert attack.random_start


def test_mim_takes_twenty_steps_with_decay_one(victim: SimpleNamespace) -> None:
    (attack,) = build_attacks("mim", victim.model, ThreatModel(0.1, 5))
    assert isinstance(attack, torchattacks.MIFGSM)
    assert (attack.eps, attack.alpha, attack.steps, attack.decay) == (0.1, 0.025, 20, 1.0)


def test_the_standard_budgets(monkeypatch: pytest.MonkeyPatch, victim: SimpleNamespace) -> None:
    monkeypatch.undo()
    (square,) = build_attacks("square", victim.model, ThreatModel(0.1, 10))
    parts = build_attacks("autoattack", victim.model, ThreatModel(0.1, 10))
    kinds = [torchattacks.APGD, torchattacks.APGDT, torchattacks.FAB, torchattacks.Square]
    assert [type(part) for part in parts] == kinds
    assert [part.steps for part in parts[:3]] == [100] * 3
    assert parts[0].loss == "ce"
    assert parts[2].multi_targeted
    for attack in (square, parts[3]):
        assert (attack.n_queries, attack.p_init, attack.loss) == (5000, 0.8, "margin")
    assert all((part.eps, part.norm) == (0.1, "Linf") for part in [square, *parts])


@pytest.mark.parametrize(("classes", "targets"), [(4, 3), (5, 4), (10, 9), (100, 9), (1000, 9)])
def test_targeted_attacks_take_nine_targets_or_all_others(
    classes: int, targets: int, victim: SimpleNamespace
) -> None:
    parts = build_attacks("autoattack", victim.model, ThreatModel(0.1, classes))
    assert [part.n_target_classes for part in parts[1:3]] == [targets] * 2


@pytest.mark.parametrize("classes", [2, 3])
def test_autoattack_on_few_classes_leaves_the_targeted_dlr_out(classes: int) -> None:
    with fenced(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes)).eval()
    x = torch.rand(12, 1, 6, 6, generator=draws())
    y = model(x).argmax(dim=1)
    parts = build_attacks("autoattack", model, ThreatModel(0.4, classes))
    kinds = [torchattacks.APGD, torchattacks.FAB, torchattacks.Square]
    assert [type(part) for part in parts] == kinds
    assert parts[1].n_target_classes == classes - 1
    for part in parts:
        assert not survivors(part, model, x, y, 0).all()


def test_an_unknown_name_is_a_key_error(victim: SimpleNamespace) -> None:
    with pytest.raises(KeyError):
        build_attacks("fgsm", victim.model, ThreatModel(0.1, 5))


def test_the_seed_reaches_the_random_start(victim: SimpleNamespace) -> None:
    seen = []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        seen.append(torch.rand(3))
        torch.manual_seed(0)
        return x

    state = torch.get_rng_state()
    for seed in (1, 1, 2):
        survivors(attack, victim.model, victim.x, victim.y, seed)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_perturbation_that_is_not_finite_counts_as_none(
    bad: float, victim: SimpleNamespace
) -> None:
    x, y = right_samples(victim)
    noise = torch.full_like(x, 1000.0) * torch.rand(x.shape, generator=draws())

    def attack(x: Tensor, y: Tensor) -> Tensor:
        adversarial = noise.clone()
        adversarial[0, 0, 2, 3] = bad
        return adversarial

    survived = survivors(attack, victim.model, x, y, 0)
    assert survived[0]
    expected = victim.model(noise[1:]).argmax(dim=1) == y[1:]
    assert torch.equal(survived[1:], expected)
    assert not survived[1:].all()


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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_cw_can_move_pixels_at_the_ends_of_the_range(value: float) -> None:
    x, y = boxes(value).contiguous(), torch.tensor([int(value)])
    model = linear()
    adversarial = perturb(CarliniWagner(model, c=100, steps=300, lr=0.5), model, x, y)
    assert int(model(adversarial).argmax()) == 1 - int(value)
    assert (adversarial - x).abs().min() > 0.01


def test_cw_on_a_sample_does_not_depend_on_its_batch(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    model = victim.model.double()
    try:
        attack = CarliniWagner(model, c=1, steps=60, lr=0.05)
        together = perturb(attack, model, x.double(), y)
        alone = [perturb(attack, model, x[i : i + 1].double(), y[i : i + 1]) for i in range(6)]
    finally:
        victim.model.float()
    assert (together - x).flatten(1).norm(dim=1).min() > 0
    torch.testing.assert_close(torch.cat(alone), together[:6], rtol=0, atol=1e-7)


def test_cw_keeps_the_image_where_it_finds_nothing(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    attack = CarliniWagner(victim.model, c=1e-4, steps=2, lr=1e-4)
    assert torch.equal(perturb(attack, victim.model, x, y), x)


def test_cw_of_the_suite_is_that_of_guards_evaluation(victim: SimpleNamespace) -> None:
    (attack,) = build_attacks("cw", victim.model, ThreatModel(0.1, 5))
    assert isinstance(attack, CarliniWagner)
    assert (attack.c, attack.steps, attack.lr) == (1e-4, 50, 0.01)
