"""Verdicts by hand, and the metrics that are read from them."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from evaluating import assert_same
from torch import Tensor

from guard.config import EvaluationConfig
from guard.config.evaluation import AttackAt, attacks_at
from guard.robustness.measures import singled_out, worst_cases
from guard.robustness.verdicts import Verdicts, is_weaker, metrics
from helpers import draws

NEAR, FAR = 2 / 255, 8 / 255
BROKEN: dict[AttackAt, tuple[int, ...]] = {
    (math.inf, "cw"): (0, 1, 2),
    (NEAR, "pgd2"): (),
    (NEAR, "pgd5"): (3,),
    (NEAR, "apgd-ce"): (4,),
    (NEAR, "apgd-t"): (),
    (NEAR, "fab-t"): (),
    (NEAR, "square"): (),
    (FAR, "pgd2"): (5,),
    (FAR, "pgd5"): (),
    (FAR, "apgd-ce"): (),
    (FAR, "apgd-t"): (6,),
    (FAR, "fab-t"): (),
    (FAR, "square"): (),
}


HAND_MADE = EvaluationConfig(
    eps=FAR, more_eps=(NEAR,), attacks=("pgd5", "pgd2", "cw", "autoattack"), cascade=False
)


def without(count: int, *indices: int) -> Tensor:
    """bool, (count,): all but these."""
    mask = torch.ones(count, dtype=torch.bool)
    mask[list(indices)] = False
    return mask


@pytest.fixture
def made() -> Verdicts:
    """Ten samples, the last one wrong without an attack; cw goes 0.01, 0.02 and 0.5 far."""
    far = torch.full((10,), math.inf)
    far[[0, 1, 2, 9]] = torch.tensor([0.01, 0.02, 0.5, 0])
    survived = {part: without(10, 9, *indices) for part, indices in BROKEN.items()}
    return Verdicts(clean=without(10, 9), survived=survived, distances={"cw": far})


@pytest.mark.parametrize(
    ("eps", "broken"),
    [
        (0.0, ()),
        (NEAR, (3, 4)),
        (0.015, (0, 3, 4)),
        (FAR, (0, 1, 3, 4, 5, 6)),
        (0.5, (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_robust_is_right_under_all_that_ran_within_the_radius(
    eps: float, broken: tuple[int, ...], made: Verdicts
) -> None:
    assert torch.equal(made.robust(eps), without(10, 9, *broken))


@pytest.mark.parametrize(
    ("eps", "name", "broken"),
    [
        (NEAR, "pgd2", ()),
        (NEAR, "pgd5", (3,)),
        (NEAR, "autoattack", (3, 4)),
        (FAR, "pgd2", (5,)),
        (FAR, "pgd5", (3, 5)),
        (FAR, "apgd-ce", (4,)),
        (FAR, "apgd-t", (6,)),
        (FAR, "square", ()),
        (FAR, "autoattack", (0, 1, 3, 4, 5, 6)),
        (FAR, "cw", (0, 1, 2)),
        (NEAR, "cw", (0, 1, 2)),
    ],
)
def test_an_attack_counts_what_it_broke_itself_or_could_have(
    eps: float, name: str, broken: tuple[int, ...], made: Verdicts
) -> None:
    assert torch.equal(made.under(eps, name), without(10, 9, *broken))


def test_verdicts_are_left_as_they_are_by_reading_them(made: Verdicts) -> None:
    before = copy.deepcopy(made)
    made.robust(1.0)
    for name in ("pgd5", "cw", "autoattack"):
        made.under(1.0, name)
    assert_same(made, before)


def test_metrics_are_shares_of_all_samples(made: Verdicts) -> None:
    near = "robust_accuracy/eps_2_255"
    assert metrics(made, HAND_MADE) == pytest.approx(
        {
            "clean_accuracy": 0.9,
            "num_samples": 10,
            "drop_rate": 0.6 / 0.9,
            "distance/cw": 0.02,
            "robust_accuracy": 0.3,
            "robust_accuracy/pgd5": 0.7,
            "robust_accuracy/pgd2": 0.8,
            "robust_accuracy/cw": 0.6,
            "robust_accuracy/autoattack": 0.3,
            "robust_accuracy/apgd-ce": 0.8,
            "robust_accuracy/apgd-t": 0.8,
            "robust_accuracy/fab-t": 0.9,
            "robust_accuracy/square": 0.9,
            near: 0.7,
            f"{near}/pgd5": 0.8,
            f"{near}/pgd2": 0.9,
            f"{near}/autoattack": 0.7,
            f"{near}/apgd-ce": 0.8,
            f"{near}/apgd-t": 0.9,
            f"{near}/fab-t": 0.9,
            f"{near}/square": 0.9,
        }
    )


def test_metrics_start_with_the_search_s_own(made: Verdicts) -> None:
    names = ["clean_accuracy", "robust_accuracy", "drop_rate", "num_samples"]
    assert list(metrics(made, HAND_MADE))[:4] == names


def test_the_drop_of_a_model_that_is_never_right_is_zero() -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    made = Verdicts(
        clean=nothing, survived={(0.1, "pgd5"): nothing}, distances={"cw": torch.zeros(3)}
    )
    found = metrics(made, EvaluationConfig(eps=0.1, attacks=("pgd5",)))
    assert found == {
        "clean_accuracy": 0,
        "robust_accuracy": 0,
        "robust_accuracy/pgd5": 0,
        "drop_rate": 0,
        "num_samples": 3,
    }


@pytest.mark.parametrize(
    ("name", "than", "weaker"),
    [
        ("pgd5", "pgd20", True),
        ("margin5", "margin100", True),
        ("pgd2", "pgd20", True),
        ("pgd20", "pgd5", False),
        ("pgd20", "pgd20", False),
        ("square300", "square500", True),
        ("square300", "square", False),
        ("pgd5", "margin20", False),
        ("mim", "pgd20", False),
        ("pgd5", "autoattack", False),
        ("cw", "cw", False),
    ],
)
def test_fewer_steps_of_the_same_attack_are_weaker(name: str, than: str, weaker: bool) -> None:
    assert is_weaker(name, than) is weaker


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_below_autoattack_but_what_goes_further(seed: int) -> None:
    draw = draws(seed)
    own = EvaluationConfig(eps=0.1, more_eps=(0.05, 0.3), attacks=("pgd5", "mim", "paper"))
    clean = torch.rand(40, generator=draw) < 0.9
    survived = {part: clean & (torch.rand(40, generator=draw) < 0.9) for part in attacks_at(own)}
    made = Verdicts(
        clean=clean, survived=survived, distances={"cw": 2 * torch.rand(40, generator=draw)}
    )
    found = metrics(made, own)
    for worst in worst_cases(own):
        alone = {m.attack: found[m.metric] for m in singled_out(own, worst) if m.attack != "cw"}
        assert alone["autoattack"] == found[worst.metric] <= min(alone.values())
        assert found[worst.metric] < max(alone.values()) <= found["clean_accuracy"]


def test_verdicts_survive_a_file(made: Verdicts, tmp_path: Path) -> None:
    made.save(tmp_path / "verdicts.safetensors")
    read = Verdicts.load(tmp_path / "verdicts.safetensors")
    assert_same(read, made)
    assert metrics(read, HAND_MADE) == metrics(made, HAND_MADE)


def test_verdicts_without_an_attack_survive_a_file(tmp_path: Path) -> None:
    made = Verdicts(clean=torch.tensor([True, False]))
    made.save(tmp_path / "verdicts.safetensors")
    assert_same(Verdicts.load(tmp_path / "verdicts.safetensors"), made)
