"""AutoAttack's parts that are corrected, against torchattacks' own where those are right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchattacks
from attacking import EPS, each_norm, mlp, samples, threat, wrong
from torch import Tensor, nn

from guard.norms import norms
from guard.robustness.attacks import Counted, ThreatModel, attack_images, build_attack
from guard.robustness.attacks.apgd import TargetedAPGD
from guard.robustness.attacks.draws import shared_draws
from guard.robustness.attacks.square import Square
from guard.seeding import fenced
from helpers import draws


def run(attack: torchattacks.attack.Attack, x: Tensor, y: Tensor) -> Tensor:
    with fenced(0), shared_draws(0):
        return attack(x, y).detach()


def apgd(norm: str, scale: float = 1) -> dict[str, Any]:
    return {"norm": norm, "eps": scale * EPS[norm], "steps": 20, "seed": 0}


def one_by_one(attack: torchattacks.attack.Attack, x: Tensor, y: Tensor) -> Tensor:
    rows = zip(x.split(1), y.split(1), strict=True)
    return torch.cat([run(attack, *row) for row in rows])


@pytest.mark.parametrize("targets", [1, 4])
@each_norm
def test_apgd_t_is_torchattacks_on_each_sample(norm: str, targets: int) -> None:
    model = mlp(torch.float64)
    x, y = samples(model, 8)
    own = run(TargetedAPGD(model, targets, **apgd(norm, 0.5)), x, y)
    theirs = torchattacks.APGDT(model, **apgd(norm, 0.5), n_classes=targets + 1)
    torch.testing.assert_close(own, one_by_one(theirs, x, y), rtol=0, atol=1e-8)
    assert 0 < int((own != x).flatten(1).any(dim=1).sum()) < 8


def test_apgd_t_in_l2_does_not_step_as_the_first_sample_does() -> None:
    model = mlp(torch.float64)
    x, y = samples(model, 8)
    theirs = torchattacks.APGDT(model, **apgd("L2"), n_classes=5)
    assert (run(theirs, x, y) - one_by_one(theirs, x, y)).abs().max() > 1e-3
    own = TargetedAPGD(model, 4, **apgd("L2"))
    torch.testing.assert_close(run(own, x, y), one_by_one(own, x, y), rtol=0, atol=1e-8)


def test_a_batch_in_l2_is_asked_at_once() -> None:
    model = Counted(mlp(torch.float64)).eval()
    calls: list[int] = []
    model.register_forward_hook(lambda module, inputs, logits: calls.append(len(logits)))
    x, y = samples(model, 8)
    calls.clear()
    run(TargetedAPGD(model, 1, **apgd("L2", 1e-3)), x, y)
    assert calls == [8] + [7] * 22  # the images, the target, the start and each step


def square(model: nn.Module, norm: str = "L2", **options: Any) -> Square:
    given = {"norm": norm, "eps": EPS[norm], "n_queries": 60, "p_init": 0.8, "seed": 0}
    return Square(model, **{**given, **options})


def pictures(channels: int, side: int, count: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, images in [0.3, 0.7] and the model's labels of them."""
    layer = nn.Linear(channels * side**2, 4).double()
    with fenced(2), torch.no_grad():
        nn.init.normal_(layer.weight)
        layer.bias.copy_(-0.5 * layer.weight.sum(dim=1))
    x = torch.rand(count, channels, side, side, generator=draws(), dtype=torch.float64)
    x, model = 0.3 + 0.4 * x, nn.Sequential(nn.Flatten(), layer).eval()
    return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize(("norm", "channels"), [("L2", 1), ("Linf", 1), ("Linf", 3)])
@pytest.mark.parametrize("side", [6, 10, 28])
def test_square_is_torchattacks_where_that_is_right(norm: str, channels: int, side: int) -> None:
    model, x, y = pictures(channels, side)
    given = {"norm": norm, "eps": EPS[norm], "n_queries": 60, "p_init": 0.8, "seed": 0}
    theirs = run(torchattacks.Square(model, **given), x, y)
    own = run(square(model, norm), x, y)
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-5)
    assert wrong(model, own, y).any()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_square_moves_mass_within_each_channel(channels: int) -> None:
    model, x, _ = pictures(channels, 16)
    attack = square(model, resc_schedule=False)
    delta = torch.randn(x.shape, generator=draws(1), dtype=torch.float64)
    delta *= (EPS["L2"] / norms(delta))[:, None, None, None]
    with fenced(0), shared_draws(0):
        moved = attack.shifted(delta, number=100)
    changed = moved != delta
    assert 49 <= int(changed[0, 0].sum()) < 98  # of 256: two windows of 7 x 7
    mass = delta.square().sum(dim=(2, 3))
    torch.testing.assert_close(moved.square().sum(dim=(2, 3)), mass, rtol=1e-6, atol=0)
    torch.testing.assert_close(attack.at(x, moved) - x, moved, rtol=1e-6, atol=1e-9)


def test_square_hands_out_evenly_what_the_ball_has_left() -> None:
    model, x, _ = pictures(3, 16)
    half = torch.randn(x.shape, generator=draws(1), dtype=torch.float64)
    half *= (0.5 * EPS["L2"] / norms(half))[:, None, None, None]
    with fenced(0), shared_draws(0):
        moved = square(model).shifted(half, number=100)
    gained = moved.square().sum(dim=(2, 3)) - half.square().sum(dim=(2, 3))
    expected = torch.full_like(gained, 0.75 * EPS["L2"] ** 2 / 3)
    torch.testing.assert_close(gained, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 9, 12, 14, 19, 24])
@pytest.mark.parametrize("channels", [1, 3])
def test_square_takes_images_of_any_side(channels: int, side: int) -> None:
    model, x, y = pictures(channels, side)
    moved = run(square(model, eps=0.1), x, y)
    lengths = norms(moved - x)
    assert moved.isfinite().all() and float(lengths.max()) <= 0.1 + 1e-9
    ball = ThreatModel(eps=3.0, num_classes=4, norm="L2")
    assert wrong(model, attack_images("square40", model, x, y, ball, 0), y).any()


def test_the_first_tiles_cover_the_image() -> None:
    model, x, _ = pictures(2, 14, count=1)
    with fenced(0), shared_draws(0):
        tiled = square(model).tiles(x)[0, 0]
    assert tiled[2:].count_nonzero() == 144 and tiled[:2].count_nonzero() == 0


@pytest.mark.parametrize(
    ("name", "queries", "stretched"),
    [("square", 5000, False), ("square5000", 5000, False), ("square200", 200, True)],
)
@each_norm
def test_square_s_windows_shrink_as_in_autoattack(
    norm: str, name: str, queries: int, stretched: bool, victim: SimpleNamespace
) -> None:
    attack = build_attack(name, victim.model, threat(norm))
    assert isinstance(attack, Square)
    assert (attack.n_queries, attack.rescale_schedule) == (queries, stretched)
    shares = [0.8 / attack.p_selection(number) for number in (0, 100, queries - 1)]
    assert shares == ([1, 128, 512] if stretched else [1, 4, 128])


@each_norm
def test_images_of_0_and_1_alone_are_broken_by_both_targeted_attacks(norm: str) -> None:
    model, x, _ = pictures(1, 6, count=12)
    x = (x > 0.5).float()
    y = model.float()(x).argmax(dim=1)
    broken = [
        wrong(model, attack_images(name, model, x, y, threat(norm, 4), 0), y)
        for name in ("apgd-t", "fab-t")
    ]
    assert 2 < int(broken[0].sum()) < 12
    assert torch.equal(*broken)
