from __future__ import annotations

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

import guard.robustness.attacks
from guard.config.evaluation import LINF_ONLY, UNBOUNDED
from guard.models.networks import frozen
from guard.robustness.attacks import (
    Attack,
    CarliniWagner,
    Counted,
    ThreatModel,
    attack_images,
    build_attack,
)
from guard.robustness.attacks.cw import margins
from guard.robustness.attacks.pgd import Objective, ProjectedGradient
from guard.seeding import fenced
from guard.training.penalties import unit

NAMES = ("pgd5", "margin5", *guard.robustness.attacks.BUILDS)
NORMS = ("Linf", "L2")
BOUNDED = [
    (name, norm)
    for norm in NORMS
    for name in NAMES
    if name not in UNBOUNDED and (norm == "Linf" or name not in LINF_ONLY)
]
CASES = [*BOUNDED, *((name, "L2") for name in UNBOUNDED)]
EPS = {"Linf": 0.09, "L2": 0.5}
QUERIES = 30

each_attack = pytest.mark.parametrize(("name", "norm"), CASES)
each_bounded_attack = pytest.mark.parametrize(("name", "norm"), BOUNDED)
each_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard.robustness.attacks, "SQUARE_QUERIES", QUERIES)
    monkeypatch.setattr(guard.robustness.attacks, "AUTOATTACK_STEPS", 5)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right_samples(victim: SimpleNamespace, count: int = 24) -> tuple[Tensor, Tensor]:
    right = victim.model(victim.x).argmax(dim=1) == victim.y
    return victim.x[right][:count], victim.y[right][:count]


def threat(norm: str, classes: int = 5, scale: float = 1) -> ThreatModel:
    return ThreatModel(scale * EPS[norm], classes, norm)


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(dim=1) != y


def perturb(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    with fenced(seed), frozen(model):
        return attack(x, y).detach()


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
    assert name in ("square", "cw") or distances.max() > 0.9 * EPS[norm]


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
    assert count_broken(name, threat(norm, scale=2.5), victim) > 4


def mlp(dtype: torch.dtype, classes: int = 5) -> nn.Module:
    with fenced(1):
        layers = [nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, classes)]
        model = nn.Sequential(*layers).to(dtype).eval()
        for layer in (model[1], model[3]):
            nn.init.normal_(layer.weight)
    return model


def samples(model: nn.Module, count: int = 9) -> tuple[Tensor, Tensor]:
    """Images and the model's own labels of them, but of the first one."""
    dtype = next(model.parameters()).dtype
    x = torch.rand(count, 1, 6, 6, generator=draws(), dtype=torch.float64).to(dtype)
    y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % model(x).shape[1]
    return x, y


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
    "name", ["pgd5", "margin5", "jitter", "vmi", "apgd-ce", "apgd-t", "square"]
)
def test_results_depend_on_the_batch_where_draws_are_not_shared(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        guard.robustness.attacks, "SharedDraws", lambda seed: contextlib.nullcontext()
    )
    whole, chunks, shuffled = batched(name, "Linf", mlp(torch.float64))
    assert (chunks - whole).abs().max() > 1e-3
    assert (shuffled - whole).abs().max() > 1e-3


def test_apgd_t_in_l2_depends_on_the_batch_unless_it_runs_sample_by_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard.robustness.attacks, "ALONE_IN_L2", ())
    whole, chunks, shuffled = batched("apgd-t", "L2", mlp(torch.float64))
    assert max(float((other - whole).abs().max()) for other in (chunks, shuffled)) > 1e-3


@pytest.mark.parametrize("steps", [1, 20, 100])
@pytest.mark.parametrize("eps", [1 / 255, 0.1])
def test_pgd_steps_a_quarter_of_the_radius_from_a_random_start(
    steps: int, eps: float, victim: SimpleNamespace
) -> None:
    attack = build_attack(f"pgd{steps}", victim.model, ThreatModel(eps, 5))
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
    attack = build_attack("mim", victim.model, ThreatModel(0.1, 5))
    assert isinstance(attack, torchattacks.MIFGSM)
    assert (attack.eps, attack.alpha, attack.steps, attack.decay) == (0.1, 0.025, 20, 1.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("vmi", torchattacks.VMIFGSM), ("jitter", torchattacks.Jitter)]
)
def test_vmi_and_jitter_take_twenty_steps_of_a_quarter_of_the_radius(
    name: str, kind: type, victim: SimpleNamespace
) -> None:
    attack = build_attack(name, victim.model, ThreatModel(0.1, 5))
    assert isinstance(attack, kind)
    assert (attack.eps, attack.alpha, attack.steps) == (0.1, 0.025, 20)


def test_fgsm_is_one_step_to_the_end_of_the_ball(victim: SimpleNamespace) -> None:
    x, y = right_samples(victim)
    moved = attack_images("fgsm", victim.model, x, y, ThreatModel(0.1, 5), 0)
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
    parts = [build_attack(name, victim.model, ThreatModel(0.1, 10, norm)) for name in names]
    kinds = [torchattacks.APGD, torchattacks.APGDT, torchattacks.FAB, torchattacks.Square]
    assert [type(part) for part in parts] == kinds
    assert [part.steps for part in parts[:3]] == [100] * 3
    assert [part.n_restarts for part in parts] == [1] * 4
    assert parts[0].loss == "ce"
    assert parts[2].multi_targeted
    assert (parts[3].n_queries, parts[3].p_init, parts[3].loss) == (5000, 0.8, "margin")
    assert all((part.eps, part.norm) == (0.1, norm) for part in parts)


@pytest.mark.parametrize(("classes", "targets"), [(4, 3), (5, 4), (10, 9), (100, 9), (1000, 9)])
def test_targeted_attacks_take_nine_targets_or_all_others(
    classes: int, targets: int, victim: SimpleNamespace
) -> None:
    for name in ("apgd-t", "fab-t"):
        attack = build_attack(name, victim.model, ThreatModel(0.1, classes))
        assert attack.n_target_classes == targets


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
        build_attack(name, victim.model, ThreatModel(0.1, 5))


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
    moved = attack_images("mim", model, x, y, ThreatModel(0.3, 5), 0)
    by_sample = momentum_ascent(model, x, y, 0.3, mean_over=(1, 2, 3))
    by_batch = momentum_ascent(model, x, y, 0.3, mean_over=(0, 1, 2, 3))
    torch.testing.assert_close(moved, by_sample, rtol=0, atol=1e-9)
    assert (moved - by_batch)[1:].abs().max() > 0.01


@pytest.mark.parametrize("name", ["mim", "vmi"])
def test_a_sample_with_a_huge_gradient_does_not_change_its_neighbours(name: str) -> None:
    model, x, y = uneven_samples()
    together = attack_images(name, model, x, y, ThreatModel(0.3, 5), 0)
    rest = attack_images(name, model, x[1:], y[1:], ThreatModel(0.3, 5), 0)
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


@pytest.mark.parametrize(("norm", "expected"), [("Linf", [0.4, 0.0]), ("L2", [0.5, 0.0])])
def test_distances_are_lengths_in_the_norm(norm: str, expected: list[float]) -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    moved = x.clone()
    moved[0, 0, 0] += torch.tensor([0.3, -0.4])
    distances = ThreatModel(0.1, 5, norm).distances(x, moved)
    torch.testing.assert_close(distances, torch.tensor(expected))


@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.5, 3.0])
def test_a_ball_ends_at_its_radius_but_for_rounding(eps: float) -> None:
    lengths = torch.tensor([0.0, eps, eps + 1e-7, eps * 1.0001 + 1e-6, 2 * eps + 1e-3])
    assert ThreatModel(eps, 5).contains(lengths).tolist() == [True, True, True, False, False]


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
    moved = attack_images("deepfool", model, x, y, ThreatModel(0.1, 2, "L2"), 0)
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
    ball = ThreatModel({"Linf": 0.2, "L2": 0.5}[norm], 2, norm)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    assert gradient.count_nonzero() == 0
    plain = attack_images("pgd20", model, x, y, ball, 0)
    assert not wrong(model, plain, y).any()
    assert wrong(model, attack_images("margin20", model, x, y, ball, 0), y).all()


@each_norm
def test_pgd_without_a_gradient_stays_at_its_start(norm: str) -> None:
    model, x, y = Sure().eval(), boxes(0.3).float(), torch.tensor([1])
    ball = ThreatModel(0.05, 2, norm)
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
    ball = ThreatModel(0.08, 2, norm)
    lengths = torch.stack([ball.distances(x, seen) for seen in model.inputs])
    expected = torch.tensor([0, 0.02, 0.04, 0.06, 0.08, 0.08, 0.08]).double()
    torch.testing.assert_close(lengths, expected[:, None].expand(7, 2), rtol=1e-6, atol=1e-9)
    assert torch.equal(moved, model.inputs[-1])


@each_norm
def test_random_starts_fill_the_ball_inside_the_box(norm: str, victim: SimpleNamespace) -> None:
    attack = ProjectedGradient(victim.model, norm, 0.5, 1, "margin")
    ball = ThreatModel(0.5, 5, norm)
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
    attack_images("square", counted, x, y, ThreatModel(0.01, 5), 0)
    assert counted.backward_passes == 0
    assert counted.forward_passes == 10 * (QUERIES + 3)  # the clean image, the start, the last look


def test_our_pgd_looks_once_more_after_its_last_step(victim: SimpleNamespace) -> None:
    counted = Counted(victim.model).eval()
    x, y = right_samples(victim, 10)
    attack_images("margin5", counted, x, y, ThreatModel(0.001, 5), 0)
    assert (counted.forward_passes, counted.backward_passes) == (60, 50)


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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_cw_can_move_pixels_at_the_ends_of_the_range(value: float) -> None:
    x, y = boxes(value).contiguous(), torch.tensor([int(value)])
    model = linear()
    adversarial = perturb(CarliniWagner(model, c=100, steps=300, lr=0.5), model, x, y)
    assert int(model(adversarial).argmax()) == 1 - int(value)
    assert (adversarial - x).abs().min() > 0.01


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
    attack = build_attack("cw", victim.model, ThreatModel(0.1, 5))
    assert isinstance(attack, CarliniWagner)
    assert (attack.c, attack.steps, attack.lr) == (1e-4, 50, 0.01)
