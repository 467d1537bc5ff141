"""Keys of accuracies; tests/guard/robustness/test_evaluate.py has their values."""

from __future__ import annotations

import pytest

from guard.config import EvaluationConfig
from guard.config.evaluation import AUTOATTACK
from guard.robustness.measures import (
    CLEAN,
    ROBUST,
    Measure,
    measures,
    radius_name,
    singled_out,
    worst_cases,
)

ELSEWHERE = Measure(kind="robust", eps=2 / 255)


@pytest.mark.parametrize(
    ("measure", "name", "metric", "heading"),
    [
        (CLEAN, "clean", "clean_accuracy", "clean"),
        (ROBUST, "robust", "robust_accuracy", "robust"),
        (ELSEWHERE, "robust/eps_2_255", "robust_accuracy/eps_2_255", "robust at 2/255"),
        (
            Measure(kind="robust", eps=0.05),
            "robust/eps_0.05",
            "robust_accuracy/eps_0.05",
            "robust at 0.05",
        ),
        (
            Measure(kind="robust", attack="apgd-ce"),
            "robust/apgd-ce",
            "robust_accuracy/apgd-ce",
            "apgd-ce",
        ),
        (
            Measure(kind="robust", eps=8 / 255, attack="pgd20"),
            "robust/eps_8_255/pgd20",
            "robust_accuracy/eps_8_255/pgd20",
            "pgd20 at 8/255",
        ),
    ],
)
def test_a_measure_has_a_name_a_metric_and_a_heading(
    measure: Measure, name: str, metric: str, heading: str
) -> None:
    assert (measure.name, measure.metric, measure.heading) == (name, metric, heading)
    assert measure.on("test") == f"test/{metric}"


@pytest.mark.parametrize(
    ("eps", "name"),
    [
        (8 / 255, "eps_8_255"),
        (1 / 255, "eps_1_255"),
        (0.0, "eps_0"),
        (0.1, "eps_0.1"),
        (0.05, "eps_0.05"),
        (0.5, "eps_0.5"),
        (0.2, "eps_0.2"),
        (1.0, "eps_1"),
    ],
)
def test_a_radius_is_named_as_it_was_written(eps: float, name: str) -> None:
    assert radius_name(eps) == name


def test_every_radius_has_its_own_name() -> None:
    radii = [k / 255 for k in range(17)] + [0.25, 0.5, 0.75, 1.5, 1e-4]
    assert len({radius_name(eps) for eps in radii}) == len(radii)


@pytest.mark.parametrize(
    ("attacks", "at_eps", "elsewhere"),
    [
        (("pgd5", "cw"), ["pgd5", "cw"], ["pgd5"]),
        (("standard",), ["autoattack", *AUTOATTACK], ["autoattack", *AUTOATTACK]),
        (("square", "autoattack"), ["square", "autoattack", *AUTOATTACK[:3]], None),
        (("paper",), ["pgd100", "square", "autoattack", "cw", "mim", *AUTOATTACK[:3]], None),
    ],
)
def test_what_is_named_and_autoattack_s_parts_are_singled_out(
    attacks: tuple[str, ...], at_eps: list[str], elsewhere: list[str] | None
) -> None:
    named = EvaluationConfig(eps=0.1, more_eps=(0.2,), attacks=attacks)
    own, other = (singled_out(named, worst) for worst in worst_cases(named))
    assert [measure.attack for measure in own] == at_eps
    assert [measure.attack for measure in other] == (elsewhere or [n for n in at_eps if n != "cw"])
    assert {measure.eps for measure in own} == {None}
    assert {measure.eps for measure in other} == {0.2}


def test_the_search_s_radius_comes_first_and_the_others_ascend() -> None:
    config = EvaluationConfig(eps=0.1, more_eps=(0.2, 0.05, 0.1), attacks=("pgd5",))
    assert [measure.metric for measure in measures(config)] == [
        "clean_accuracy",
        "robust_accuracy",
        "robust_accuracy/pgd5",
        "robust_accuracy/eps_0.05",
        "robust_accuracy/eps_0.05/pgd5",
        "robust_accuracy/eps_0.2",
        "robust_accuracy/eps_0.2/pgd5",
    ]


def test_every_measure_of_an_evaluation_has_names_of_its_own() -> None:
    found = list(measures(EvaluationConfig.named("standard")))
    assert len({m.metric for m in found}) == len({m.name for m in found}) == len(found)
