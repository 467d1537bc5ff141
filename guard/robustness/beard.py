"""Figures that other benchmarks of this field report, defined as they define them.

They compare attacks with each other, so each attack needs a figure of its own
(evaluation.cascade = false) and there must be two or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guard.artifacts import Artifact
from guard.config import EvaluationConfig
from guard.config.evaluation import AUTOATTACK, AttackAt, attacks_at, reported
from guard.robustness.measures import CLEAN, Measure

CREI_WEIGHT = 0.5


def relative_robustness(clean: float, attacked: Sequence[float]) -> float:
    """BEARD's RR: 1 − (ACC − mean)/(ACC − min) over the attacks' accuracies; 1 where no attack
    breaks anything. It is 0 where all attacks do the same, and says nothing about how well the
    model withstands them: read it beside the absolute accuracies."""
    worst = clean - min(attacked)
    return 1.0 if worst <= 0 else 1 - (clean - sum(attacked) / len(attacked)) / worst


def attack_efficiency(unattacked: float, costs: Sequence[float]) -> float:
    """BEARD's AE: (mean cost − cost of a clean evaluation)/(largest − that), in [0, 1]; 1 where all
    cost the same."""
    largest = max(costs) - unattacked
    return 1.0 if largest <= 0 else (sum(costs) / len(costs) - unattacked) / largest


def crei(robustness: float, efficiency: float) -> float:
    """BEARD's CREI: ½·RR + ½·AE."""
    return CREI_WEIGHT * robustness + (1 - CREI_WEIGHT) * efficiency


def peer_metrics(config: EvaluationConfig, chain: Sequence[Artifact]) -> dict[str, float]:
    """beard/rrm, and beard/aem_… and beard/crei_… by model passes and by seconds, from the finished
    stages of an evaluation. Passes repeat exactly; seconds are those of the machine (a clean
    evaluation's are taken as 0). Empty where they are not defined."""
    if config.cascade or not chain:
        return {}
    found, every = chain[-1].summary["metrics"], attacks_at(config)
    alone = {n: Measure(kind="robust", attack=n).metric for n in reported(config.attacks)}
    names = [name for name, metric in alone.items() if metric in found]
    if len(names) < 2:
        return {}
    clean, attacked = found[CLEAN.metric], [found[alone[name]] for name in names]
    right = clean * found["num_samples"] or 1.0
    counts = [sum(own) for name, own in chain[-1].summary["passes"].items() if name != "clean"]
    passes = dict(zip(every, counts, strict=True))
    seconds = {at: stage.seconds for at, stage in zip(every, chain, strict=True)}
    robustness = relative_robustness(clean, attacked)
    by_passes = attack_efficiency(1.0, costs(names, passes, config, right))
    by_seconds = attack_efficiency(0.0, costs(names, seconds, config, right))
    return {
        "beard/rrm": robustness,
        "beard/aem_passes": by_passes,
        "beard/aem_seconds": by_seconds,
        "beard/crei_passes": crei(robustness, by_passes),
        "beard/crei_seconds": crei(robustness, by_seconds),
    }


def costs(
    names: Sequence[str],
    by_attack: Mapping[AttackAt, float],
    config: EvaluationConfig,
    samples: float,
) -> list[float]:
    """Cost of each named attack at the search's radius, for each attacked sample."""
    own = {
        name: cost for (eps, name), cost in by_attack.items() if eps in (config.eps, float("inf"))
    }
    members = [AUTOATTACK if name == "autoattack" else (name,) for name in names]
    return [sum(own[member] for member in group) / samples for group in members]
