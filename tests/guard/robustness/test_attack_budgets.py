"""What each name of a config stands for: steps, radii, targets, passes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torchattacks
from attacking import EPS, QUERIES, each_norm, mlp, right_samples, samples, threat, wrong
from torch.nn import functional as F

from guard.robustness.attacks import Counted, ThreatModel, attack_images, build_attack
from guard.robustness.attacks.apgd import TargetedAPGD
from guard.robustness.attacks.pgd import ProjectedGradient
from guard.robustness.attacks.square import Square

pytestmark = pytest.mark.usefixtures("fewer_steps")


@pytest.mark.parametrize("steps", [1, 20, 100])
@pytest.mark.parametrize("eps", [1 / 255, 0.1])
def test_pgd_steps_a_quarter_of_the_radius_from_a_random_start(
    steps: int, eps: float, victim: SimpleNamespace
) -> None:
    attack = build_attack(f"pgd{steps}", victim.model, ThreatModel(eps=eps, num_classes=5))
    assert isinstance(attack, torchattacks.PGD)
    assert (attack.eps, attack.alpha, attack.steps) == (eps, eps / 4, steps)
    assert attack.random_start


@pytest.mark.parametrize(
    ("name", "norm", "objective"),
    [("pgd7", "L2", "cross-entropy"), ("margin7", "L2", "margin"), ("margin7", "Linf", "margin")],
)
def test_our_own_pgd_takes_its_name_and_norm(
    name: str, norm: str, objective: str, victim: SimpleNamespace
) -> None:
    attack = build_attack(name, victim.model, threat(norm))
    assert isinstance(attack, ProjectedGradient)
    own = (attack.norm, attack.eps, attack.steps, attack.objective)
    assert own == (norm, EPS[norm], 7, objective)


def test_mim_takes_twenty_steps_with_decay_one(victim: SimpleNamespace) -> None:
    attack = build_attack("mim", victim.model, ThreatModel(eps=0.1, num_classes=5))
    assert isinstance(attack, torchattacks.MIFGSM)
    assert (attack.eps, attack.alpha, attack.steps, attack.decay) == (0.1, 0.025, 20, 1.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("vmi", torchattacks.VMIFGSM), ("jitter", torchattacks.Jitter)]
)
def test_vmi_and_jitter_take_twenty_steps_of_a_quarter_of_the_radius(
    name: str, kind: type, victim: SimpleNamespace
) -> None:
    attack = build_attack(name, victim.model, ThreatModel(eps=0.1, num_classes=5))
    assert isinstance(attack, kind)
    assert (attack.eps, attack.alpha, attack.steps) == (0.1, 0.025, 20)


def test_fgsm_is_one_step_to_the_end_of_the_ball(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    moved = attack_images("fgsm", victim.model, x, y, ThreatModel(eps=0.1, num_classes=5), 0)
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(victim.model(x), y), x)
    expected = (x + 0.1 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(moved, expected.detach(), rtol=0, atol=1e-7)


@each_norm
def test_the_standard_budgets(
    norm: str, monkeypatch: pytest.MonkeyPatch, victim: SimpleNamespace
) -> None:
    monkeypatch.undo()
    names = ("apgd-ce", "apgd-t", "fab-t", "square")
    parts = [
        build_attack(name, victim.model, ThreatModel(eps=0.1, num_classes=10, norm=norm))
        for name in names
    ]
    kinds = [torchattacks.APGD, TargetedAPGD, torchattacks.FAB, Square]
    assert [type(part) for part in parts] == kinds
    assert [part.steps for part in parts[:3]] == [100] * 3
    assert [part.n_restarts for part in parts] == [1] * 4
    assert [parts[0].loss, parts[0].eot_iter, parts[0].thr_decr] == ["ce", 1, 0.75]
    assert [parts[1].loss, parts[1].eot_iter, parts[1].thr_decr] == ["dlr", 1, 0.75]
    assert parts[2].multi_targeted
    assert (parts[2].alpha_max, parts[2].eta, parts[2].beta) == (0.1, 1.05, 0.9)
    assert (parts[3].n_queries, parts[3].p_init, parts[3].loss) == (5000, 0.8, "margin")
    assert not parts[3].rescale_schedule
    assert all((part.eps, part.norm) == (0.1, norm) for part in parts)


@pytest.mark.parametrize(("classes", "targets"), [(4, 3), (5, 4), (10, 9), (100, 9), (1000, 9)])
def test_targeted_attacks_take_nine_targets_or_all_others(
    classes: int, targets: int, victim: SimpleNamespace
) -> None:
    ball = ThreatModel(eps=0.1, num_classes=classes)
    assert build_attack("apgd-t", victim.model, ball).num_targets == targets
    assert build_attack("fab-t", victim.model, ball).n_target_classes == targets


@each_norm
@pytest.mark.parametrize("classes", [2, 3])
def test_the_targeted_dlr_loss_leaves_few_classes_alone(classes: int, norm: str) -> None:
    model = mlp(torch.float32, classes)
    x, y = samples(model)
    ball = threat(norm, classes, scale=4)
    assert torch.equal(attack_images("apgd-t", model, x, y, ball, 0), x)
    assert build_attack("fab-t", model, ball).n_target_classes == classes - 1
    for name in ("apgd-ce", "fab-t", "square"):
        moved = attack_images(name, model, x, y, ball, 0)
        assert wrong(model, moved, y)[1:].any()


@each_norm
def test_square_asks_as_often_as_its_name_says(norm: str, victim: SimpleNamespace) -> None:
    attack = build_attack("square300", victim.model, threat(norm))
    assert isinstance(attack, torchattacks.Square)
    own = (attack.n_queries, attack.p_init, attack.loss, attack.norm, attack.eps)
    assert own == (300, 0.8, "margin", norm, EPS[norm])


@pytest.mark.parametrize("name", ["autoattack", "paper", "pgd", "pgd0", "margin", "square0", ""])
def test_a_name_of_no_single_attack_is_a_key_error(name: str, victim: SimpleNamespace) -> None:
    with pytest.raises(KeyError):
        build_attack(name, victim.model, ThreatModel(eps=0.1, num_classes=5))


@pytest.mark.parametrize(("norm", "expected"), [("Linf", [0.4, 0.0]), ("L2", [0.5, 0.0])])
def test_distances_are_lengths_in_the_norm(norm: str, expected: list[float]) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    moved = x.clone()
    moved[0, 0, 0] += torch.tensor([0.3, -0.4])
    distances = ThreatModel(eps=0.1, num_classes=5, norm=norm).distances(x, moved)
    torch.testing.assert_close(distances, torch.tensor(expected))


@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.5, 3.0])
def test_a_ball_ends_at_its_radius_but_for_rounding(eps: float) -> None:
    lengths = torch.tensor([0.0, eps, eps + 1e-7, eps * 1.0001 + 1e-6, 2 * eps + 1e-3])
    assert ThreatModel(eps=eps, num_classes=5).contains(lengths).tolist() == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("name", "passes"), [("pgd5", (5, 5)), ("pgd9", (9, 9)), ("fgsm", (1, 1)), ("mim", (20, 20))]
)
def test_passes_are_counted_by_samples(
    name: str, passes: tuple[int, int], victim: SimpleNamespace
) -> None:
    counted = Counted(victim.model).eval()
    x, y = right_samples(victim, 10)
    moved = attack_images(name, counted, x, y, threat("Linf"), 0)
    forward, backward = passes
    assert (counted.forward_passes, counted.backward_passes) == (10 * forward, 10 * backward)
    assert torch.equal(moved, attack_images(name, victim.model, x, y, threat("Linf"), 0))


def test_queries_without_a_gradient_are_forward_passes(victim: SimpleNamespace) -> None:
    counted = Counted(victim.model).eval()
    x, y = right_samples(victim, 10)
    attack_images("square", counted, x, y, ThreatModel(eps=0.01, num_classes=5), 0)
    assert counted.backward_passes == 0
    assert counted.forward_passes == 10 * (QUERIES + 3)  # the clean image, the start, the last look


def test_our_pgd_looks_once_more_after_its_last_step(victim: SimpleNamespace) -> None:
    counted = Counted(victim.model).eval()
    x, y = right_samples(victim, 10)
    attack_images("margin5", counted, x, y, ThreatModel(eps=0.001, num_classes=5), 0)
    assert (counted.forward_passes, counted.backward_passes) == (60, 50)
