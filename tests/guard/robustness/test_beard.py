from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guard.artifacts import Artifact
from guard.config import EvaluationConfig
from guard.config.evaluation import attacks_at
from guard.pipeline import local_runner, run_trial
from guard.robustness.beard import attack_efficiency, costs, crei, peer_metrics, robustness_ratio


@pytest.mark.parametrize(
    ("clean", "attacked", "expected"),
    [
        (0.9, [0.6, 0.3], 0.25),  # 1 − (0.9 − 0.45)/(0.9 − 0.3)
        (0.8, [0.8, 0.4], 0.5),
        (0.5, [0.5, 0.5, 0.2], 2 / 3),
        (0.9, [0.3, 0.3], 0.0),
        (0.9, [0.0, 0.0, 0.0], 0.0),
        (0.7, [0.4], 0.0),
        (0.6995, [0.3816, 0.2886, 0.508, 0.1828, 0.0831, 0.27], 0.3287),  # BACON, IPC 50
    ],
)
def test_the_robustness_ratio_compares_the_mean_with_the_worst(
    clean: float, attacked: list[float], expected: float
) -> None:
    assert robustness_ratio(clean, attacked) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("clean", [0.0, 0.4, 1.0])
def test_the_robustness_ratio_is_zero_where_nothing_breaks(clean: float) -> None:
    assert robustness_ratio(clean, [clean, clean]) == 0


@pytest.mark.parametrize(
    ("unattacked", "costs", "expected"),
    [
        (1.0, [11.0, 21.0], 0.75),  # (16 − 1)/(21 − 1)
        (0.0, [1.0, 2.0, 3.0], 2 / 3),
        (1.0, [5.0, 5.0], 1.0),
        (0.0, [0.0, 4.0], 0.5),
        (1.0, [1.0, 1.0], 0.0),
        (0.0, [0.0, 0.0], 0.0),
        (2.0, [1.0, 1.0], 0.0),
    ],
)
def test_efficiency_compares_the_mean_cost_with_the_largest(
    unattacked: float, costs: list[float], expected: float
) -> None:
    assert attack_efficiency(unattacked, costs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("robustness", "efficiency", "expected"), [(0.25, 0.75, 0.5), (1, 0, 0.5), (0.2, 0.3, 0.25)]
)
def test_crei_is_the_mean_of_both(robustness: float, efficiency: float, expected: float) -> None:
    assert crei(robustness, efficiency) == pytest.approx(expected)


def pretended(
    config: EvaluationConfig,
    accuracies: dict[str, float],
    passes: Sequence[tuple[int, int]],
    seconds: Sequence[float],
    samples: int = 10,
) -> list[Artifact]:
    """The artifacts of a finished chain with these figures."""
    parts = attacks_at(config)
    counted = {f"{eps!r} {name}": list(own) for (eps, name), own in zip(parts, passes, strict=True)}
    clean = {"clean_accuracy": accuracies["clean_accuracy"]}
    last = {"num_samples": float(samples), **accuracies}
    return [
        Artifact(
            path=Path(name),
            summary={
                "metrics": last if number == len(parts) - 1 else clean,
                "passes": dict(list(counted.items())[: number + 1]),
            },
            seconds=own_seconds,
        )
        for number, ((_, name), own_seconds) in enumerate(zip(parts, seconds, strict=True))
    ]


BOTH = EvaluationConfig(eps=0.1, attacks=("mim", "pgd5"), cascade=False)
ACCURACIES = {
    "clean_accuracy": 0.8,
    "robust_accuracy": 0.2,
    "robust_accuracy/pgd5": 0.4,
    "robust_accuracy/mim": 0.2,
}


def test_peers_figures_are_of_each_attack_and_attacked_sample() -> None:
    chain = pretended(BOTH, ACCURACIES, [(48, 40), (168, 160)], [2.0, 8.0])
    # 8 right samples: 11 and 41 passes, ¼ and 1 s each
    assert peer_metrics(BOTH, chain) == pytest.approx(
        {
            "beard/rr": 1 / 6,  # 1 − (0.8 − 0.3)/(0.8 − 0.2)
            "beard/ae_passes": 0.625,  # (26 − 1)/(41 − 1)
            "beard/ae": 0.625,  # 0.625/1
            "beard/crei_passes": (1 / 6 + 0.625) / 2,
            "beard/crei": (1 / 6 + 0.625) / 2,
        }
    )


def test_the_search_s_radius_counts_and_unbounded_attacks_count_anywhere() -> None:
    own = EvaluationConfig(
        eps=0.1, more_eps=(0.05, 0.2), attacks=("pgd5", "autoattack", "cw"), cascade=False
    )
    found = {
        "clean_accuracy": 1.0,
        "robust_accuracy/pgd5": 0.5,
        "robust_accuracy/autoattack": 0.25,
        "robust_accuracy/cw": 0.75,
        "robust_accuracy/eps_0.05/pgd5": 0.0,
    }
    parts = attacks_at(own)
    by_attack = {"pgd5": 10, "cw": 30, "apgd-ce": 10, "apgd-t": 20, "fab-t": 30, "square": 40}
    passes = [(by_attack[name], 0) if eps in (0.1, math.inf) else (999, 999) for eps, name in parts]
    seconds = [float(sum(counts)) for counts in passes]
    measured = peer_metrics(own, pretended(own, found, passes, seconds))
    assert measured["beard/rr"] == pytest.approx(1 - 0.5 / 0.75)
    # 1, 10 and 3 of each sample
    assert measured["beard/ae_passes"] == pytest.approx((14 / 3 - 1) / 9)
    assert measured["beard/ae"] == pytest.approx(14 / 30)
    cost = costs(
        ["pgd5", "autoattack", "cw"], dict(zip(parts, seconds, strict=True)), own, samples=10
    )
    assert cost == pytest.approx([1, 10, 3])


def test_a_suite_is_its_members_with_autoattack_as_one() -> None:
    paper = EvaluationConfig.named("paper")
    names = ("pgd100", "square", "autoattack", "cw", "mim")
    found = {"clean_accuracy": 0.5, **{f"robust_accuracy/{name}": 0.25 for name in names}}
    count = len(attacks_at(paper))
    measured = peer_metrics(paper, pretended(paper, found, [(10, 10)] * count, [1.0] * count))
    assert measured["beard/rr"] == pytest.approx(0)
    # autoattack is four attacks, square one of them: 4, 16 and thrice 4 passes a sample
    assert measured["beard/ae_passes"] == pytest.approx((32 / 5 - 1) / 15)
    assert measured["beard/ae"] == pytest.approx((8 / 5) / 4)


@pytest.mark.parametrize(
    "change",
    [{"cascade": True}, {"attacks": ("mim",)}, {"attacks": ("autoattack",)}],
    ids=["cascade", "one attack", "one suite"],
)
def test_there_is_nothing_to_compare_in_a_cascade_or_with_one_attack(
    change: dict[str, Any],
) -> None:
    own = EvaluationConfig(**{"eps": 0.1, "attacks": ("mim", "pgd5"), "cascade": False, **change})
    found = {**ACCURACIES, "robust_accuracy/autoattack": 0.1}
    count = len(attacks_at(own))
    assert peer_metrics(own, pretended(own, found, [(1, 1)] * count, [1.0] * count)) == {}


def test_no_stages_have_no_figures() -> None:
    assert peer_metrics(BOTH, []) == {}


def test_figures_of_a_chain_that_reports_nothing_are_empty() -> None:
    unreported = pretended(BOTH, {"clean_accuracy": 0.5}, [(1, 1), (1, 1)], [1.0, 1.0])
    assert peer_metrics(BOTH, unreported) == {}


def test_a_model_that_is_never_right_has_figures() -> None:
    nothing = {name: 0.0 for name in ACCURACIES}
    measured = peer_metrics(BOTH, pretended(BOTH, nothing, [(10, 0), (0, 0)], [0.5, 0.1]))
    assert measured["beard/rr"] == 0
    assert all(math.isfinite(value) for value in measured.values())


def test_a_trial_reports_peers_figures_where_they_are_defined(trial: SimpleNamespace) -> None:
    changes = {"attacks": ["pgd2", "margin2"], "cascade": False, "splits": ["test"]}
    own = trial.config.override({f"evaluation.{name}": v for name, v in changes.items()})
    result = run_trial(own, local_runner(trial.store))
    measured = {name: v for name, v in result.metrics.items() if "/beard/" in name}
    assert set(measured) == {
        f"test/beard/{name}" for name in ("rr", "ae", "crei", "ae_passes", "crei_passes")
    }
    assert all(0 <= value <= 1 for value in measured.values())
    attacked = [result.metrics[f"test/robust_accuracy/{name}"] for name in ("pgd2", "margin2")]
    clean = result.metrics["test/clean_accuracy"]
    assert measured["test/beard/rr"] == robustness_ratio(clean, attacked)
    assert not any("beard" in name for name in trial.result.metrics)
