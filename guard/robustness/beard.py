"""BEARD's figures (arXiv 2411.09265; github.com/zhouzhengqd/BEARD), defined and named as there.

They compare attacks with each other, so each attack needs a figure of its own
(evaluation.cascade = false) and there must be two or more. BEARD's leaderboard heads the columns of
RR and AE with RRM and AEM: M for several adversaries. Here they are shares, there percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guard.artifacts import Artifact
from guard.config import EvaluationConfig
from guard.config.evaluation import AUTOATTACK, AttackAt, attacks_at, reported
from guard.robustness.measures import CLEAN, Measure

CREI_WEIGHT = 0.5


def robustness_ratio(clean: float, attacked: Sequence[float]) -> float:
    """BEARD's RR: 1 − (ACC − mean)/(ACC − min) over the attacks' accuracies; 0 where no attack
    breaks anything, as in its code. It is 0 where all attacks do the same, too, and says nothing
    about how well the model withstands them: read it beside the absolute accuracies."""
    worst = clean - min(attacked)
    return 0.0 if worst <= 0 else 1 - (clean - sum(attacked) / len(attacked)) / worst


def attack_efficiency(unattacked: float, costs: Sequence[float]) -> float:
    """BEARD's AE: (mean cost − cost of a clean evaluation)/(largest − that), in [0, 1]; 0 where no
    attack costs more than a clean evaluation, as in its code."""
    largest = max(costs) - unattacked
    return 0.0 if largest <= 0 else (sum(costs) / len(costs) - unattacked) / largest


def crei(ratio: float, efficiency: float) -> float:
    """BEARD's CREI: ½·RR + ½·AE."""
    return CREI_WEIGHT * ratio + (1 - CREI_WEIGHT) * efficiency


def peer_metrics(config: EvaluationConfig, chain: Sequence[Artifact]) -> dict[str, float]:
    """beard/rr, beard/ae and beard/crei from the finished stages of an evaluation. Its cost is in
    seconds, which are the machine's (a clean evaluation's are taken as 0): beard/ae_passes and
    beard/crei_passes are the same by model passes, which repeat exactly. Empty where they are not
    defined."""
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
    ratio = robustness_ratio(clean, attacked)
    by_seconds = attack_efficiency(0.0, costs(names, seconds, config, right))
    by_passes = attack_efficiency(1.0, costs(names, passes, config, right))
    return {
        "beard/rr": ratio,
        "beard/ae": by_seconds,
        "beard/crei": crei(ratio, by_seconds),
        "beard/ae_passes": by_passes,
        "beard/crei_passes": crei(ratio, by_passes),
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
