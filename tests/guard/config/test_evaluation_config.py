from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from guard.config import EvaluationConfig
from guard.config.evaluation import (
    ATTACKS,
    AUTOATTACK,
    SUITES,
    UNBOUNDED,
    attacks_at,
    expanded,
    passes_of,
    reported,
    steps_of,
)
from guard.errors import ConfigError
from guard.trial import TrialConfig

LINF_ONLY = tuple(name for name, facts in ATTACKS.items() if facts.linf_only)


@pytest.mark.parametrize("name", ["pgd1", "margin20", "square300", *ATTACKS, *SUITES])
def test_attack_names(name: str) -> None:
    assert EvaluationConfig(attacks=(name,)).attacks == (name,)
    assert len(expanded((name,))) >= 1


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *(("pgd1", 1), ("pgd20", 20), ("margin7", 7), ("square300", 300)),
        *(("pgd020", None), (f"pgd{10**9}", None), (f"square{'9' * 5000}", None)),
        *(("pgd", None), ("pgd0", None), ("square", None), ("mim", None), ("autoattack", None)),
    ],
)
def test_the_steps_are_in_the_name(name: str, steps: int | None) -> None:
    found = steps_of(name)
    assert (found and found.count) == steps
    assert found is None or name == f"{found.kind}{found.count}"


@pytest.mark.parametrize(
    "name",
    [
        *("", "pgd", "pgd0", "pgd-1", "pgd1.5", "PGD20", "pgd²", "pgd 2", "pgd20x"),
        *("margin", "margin0", "square0", "bim", "cw2", "20", "apgd", "fab"),
    ],
)
def test_no_attack_names(name: str) -> None:
    assert steps_of(name) is None
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override({"evaluation.attacks": ["pgd20", name]})
    assert caught.value.path == "evaluation.attacks[1]"
    assert repr(name) in str(caught.value)
    known = str(caught.value).split("there are: ")[1].split(", ")
    assert known == ["pgd<steps>", "margin<steps>", "square<queries>", *ATTACKS, *SUITES]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("attacks", [], "at least one"),
        ("attacks", ["mim", "mim"], "distinct, got mim, mim"),
        ("splits", [], "at least one"),
        ("splits", ["test", "test"], "distinct, got test, test"),
    ],
)
def test_an_evaluation_names_distinct_attacks_and_splits(
    field: str, value: list[str], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluation\.{field}: must .*{rule}"):
        TrialConfig().override({f"evaluation.{field}": value})


@pytest.mark.parametrize("name", [*LINF_ONLY, "paper"])
def test_attacks_in_l_inf_are_refused_in_l2(name: str) -> None:
    unfit = "mim" if name == "paper" else name
    with pytest.raises(
        ConfigError, match=rf"^attacks: {unfit} attack in L_inf, got norm L2$"
    ) as caught:
        EvaluationConfig(norm="L2", attacks=("pgd20", name))
    assert caught.value.path == "attacks"
    assert EvaluationConfig(attacks=("pgd20", name)).norm == "Linf"


def test_every_attack_in_l_inf_is_named_that_is_refused_in_l2() -> None:
    with pytest.raises(ConfigError, match=r"^attacks: fgsm, mim attack in L_inf"):
        EvaluationConfig(norm="L2", attacks=("mim", "pgd5", "fgsm"))


def test_other_attacks_take_either_norm() -> None:
    fit = ("pgd20", "margin20", *(name for name in ATTACKS if name not in LINF_ONLY), "standard")
    for norm in ("Linf", "L2"):
        assert EvaluationConfig(norm=norm, attacks=fit).attacks == fit


@pytest.mark.parametrize("radii", [{"eps": 1.5}, {"more_eps": [0.1, 1.5]}])
def test_a_radius_above_one_is_refused_in_l_inf_only(radii: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^eps: must be at most 1 in L_inf, got 1\.5$"):
        EvaluationConfig(**radii)
    assert EvaluationConfig(**radii, norm="L2").radii[-1] == 1.5
    assert EvaluationConfig(eps=1).radii == (1.0,)


@pytest.mark.parametrize("field", ["eps", "more_eps"])
def test_a_radius_is_not_negative(field: str) -> None:
    with pytest.raises(ConfigError, match="must be at least 0"):
        EvaluationConfig(**{field: -0.1 if field == "eps" else [-0.1]})


def test_radii_ascend_without_repeats() -> None:
    assert EvaluationConfig(eps=0.1, more_eps=(0.3, 0.05, 0.1)).radii == (0.05, 0.1, 0.3)
    assert EvaluationConfig(eps=0.1).radii == (0.1,)


@pytest.mark.parametrize(
    ("names", "singles"),
    [
        (("search",), ("pgd20",)),
        (("autoattack",), AUTOATTACK),
        (("standard",), AUTOATTACK),
        (("standard", "autoattack", "square", "fab-t"), AUTOATTACK),
        (("autoattack", "pgd20", "fgsm"), ("fgsm", "pgd20", *AUTOATTACK)),
        (("paper",), ("mim", "cw", "apgd-ce", "pgd100", "apgd-t", "fab-t", "square")),
        (("pgd100", "margin5", "pgd5"), ("margin5", "pgd5", "pgd100")),
        (("deepfool", "vmi", "jitter", "cw"), ("jitter", "cw", "vmi", "deepfool")),
        (("square", "square300", "vmi"), ("vmi", "square300", "square")),
    ],
)
def test_suites_are_expanded_from_cheap_to_strong(
    names: tuple[str, ...], singles: tuple[str, ...]
) -> None:
    assert expanded(names) == expanded(tuple(reversed(names))) == singles
    costs = [passes_of(name) for name in singles]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        *(("pgd7", 14), ("margin20", 40), ("square300", 300), ("fgsm", 2), ("cw", 100)),
        *(("mim", 40), ("apgd-ce", 200), ("apgd-t", 1800), ("fab-t", 2700), ("square", 5000)),
    ],
)
def test_an_attack_costs_its_passes(name: str, passes: int) -> None:
    assert passes_of(name) == passes


@pytest.mark.parametrize(
    ("names", "figures"),
    [
        (("pgd20", "mim"), ("pgd20", "mim")),
        (("search",), ("pgd20",)),
        (("standard",), ("autoattack",)),
        (("autoattack", "standard"), ("autoattack",)),
        (("paper", "search", "mim"), ("pgd100", "square", "autoattack", "cw", "mim", "pgd20")),
    ],
)
def test_a_suite_reports_its_members_but_autoattack_is_one(
    names: tuple[str, ...], figures: tuple[str, ...]
) -> None:
    assert reported(names) == figures


def test_an_evaluation_goes_from_small_radii_to_large_and_from_cheap_to_strong() -> None:
    config = EvaluationConfig(eps=0.1, more_eps=(0.2, 0.05), attacks=("cw", "square", "pgd20"))
    assert attacks_at(config) == [
        (math.inf, "cw"),
        *((eps, name) for eps in (0.05, 0.1, 0.2) for name in ("pgd20", "square")),
    ]
    free = EvaluationConfig(more_eps=(0.2,), attacks=("deepfool", "cw"))
    assert attacks_at(free) == [(math.inf, "cw"), (math.inf, "deepfool")]


def test_the_groups_of_attacks_are_of_attacks() -> None:
    assert {*AUTOATTACK, *LINF_ONLY, *UNBOUNDED} <= set(ATTACKS)
    assert not set(ATTACKS) & set(SUITES) - {"autoattack"}
    for members in SUITES.values():
        EvaluationConfig(attacks=members)


@pytest.mark.parametrize("name", sorted(EvaluationConfig.NAMED))
def test_named_evaluations_replace_the_whole_section(name: str) -> None:
    config = TrialConfig().override({"evaluation.seed": 3, "evaluation": name})
    named = EvaluationConfig.named(name)
    assert config.evaluation == dataclasses.replace(named, seed=3)
    assert named.splits == ("validation", "test") and named.norm == "Linf"


def test_guards_evaluation_gives_each_attack_its_own_figure() -> None:
    paper = EvaluationConfig.named("paper")
    assert (paper.eps, paper.radii, paper.cascade) == (1 / 255, (1 / 255,), False)
    assert reported(paper.attacks) == ("pgd100", "square", "autoattack", "cw", "mim")


def test_the_standard_evaluation_is_a_cascade_of_autoattack_at_eight_pixels() -> None:
    standard = EvaluationConfig.named("standard")
    assert standard.radii == (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    assert (standard.eps, standard.cascade) == (8 / 255, True)
    assert expanded(standard.attacks) == AUTOATTACK
    assert EvaluationConfig.named("digits").radii == (0.05, 0.1, 0.2)


@pytest.mark.parametrize("splits", [["test"], ["validation"], ["test", "validation"]])
def test_the_student_is_evaluated_on_chosen_splits(splits: list[str]) -> None:
    config = TrialConfig().override({"evaluation.splits": splits})
    assert config.evaluation.splits == tuple(splits)


@pytest.mark.parametrize(
    ("name", "eps", "figures"),
    [
        ("dd-robustbench", 2 / 255, ("fgsm", "pgd10", "margin10", "vmi", "jitter", "autoattack")),
        ("beard", 8 / 255, ("fgsm", "pgd10", "cw", "deepfool", "spsa", "autoattack")),
    ],
)
def test_the_benchmarks_give_each_attack_a_figure(
    name: str, eps: float, figures: tuple[str, ...]
) -> None:
    config = EvaluationConfig.named(name)
    assert (config.eps, config.cascade) == (eps, False)
    assert reported(config.attacks) == figures
    assert set(AUTOATTACK) < set(expanded(config.attacks))
