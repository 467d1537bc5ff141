"""Verdicts on every sample, attack by attack, and what they say together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from guard.config import EvaluationConfig
from guard.config.evaluation import UNBOUNDED, AttackAt, steps_of
from guard.robustness.measures import CLEAN, ROBUST, Measure, measures


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Of every sample, on the CPU, (N,)."""

    clean: Tensor
    """bool: right without an attack."""
    survived: Mapping[AttackAt, Tensor] = field(default_factory=dict)
    """bool: right without and under the attack; in a cascade, also under those before it."""
    distances: Mapping[str, Tensor] = field(default_factory=dict)
    """Length of the perturbation that an unbounded attack broke the sample with, in the threat
    model's norm; infinite where it did not, 0 where the sample is wrong without."""

    def robust(self, eps: float) -> Tensor:
        """bool (N,): right under every attack that ran within this radius."""
        alive = self.clean.clone()
        for (radius, _), verdict in self.survived.items():
            if radius <= eps:
                alive &= verdict
        for distance in self.distances.values():
            alive &= distance > eps
        return alive

    def under(self, eps: float, name: str) -> Tensor:
        """bool (N,): right under one attack, and under the weaker ones of its kind that ran.

        autoattack: under every attack within the radius, so it is never the weaker one. A pgd<k>
        includes those of fewer steps, and each attack includes itself at smaller radii. cw and
        deepfool count at any distance.
        """
        if name == "autoattack":
            return self.robust(eps)
        if name in UNBOUNDED:
            return self.survived[math.inf, name]
        verdict = self.clean.clone()
        for (radius, other), own in self.survived.items():
            if radius <= eps and (other == name or is_weaker(other, name)):
                verdict &= own
        return verdict

    def save(self, path: Path) -> None:
        columns = {column(at): verdict for at, verdict in self.survived.items()}
        distances = {f"distance {name}": v for name, v in self.distances.items()}
        save_file({"clean": self.clean, **columns, **distances}, path)

    @classmethod
    def load(cls, path: Path) -> Verdicts:
        columns = load_file(path)
        clean, survived, distances = columns.pop("clean"), {}, {}
        for heading, values in columns.items():
            first, name = heading.split(" ", 1)
            if first == "distance":
                distances[name] = values
            else:
                survived[float(first), name] = values
        return cls(clean=clean, survived=survived, distances=distances)


def column(at: AttackAt) -> str:
    """What a verdict of the attack is stored under."""
    return f"{at[0]!r} {at[1]}"


def is_weaker(name: str, than: str) -> bool:
    """Whether both are the same attack with a number of steps, and the first has fewer."""
    few, many = steps_of(name), steps_of(than)
    if few is None or many is None:
        return False
    return few.kind == many.kind and few.count < many.count


def share(verdicts: Tensor) -> float:
    """Of true values in verdicts (N,), in [0, 1]."""
    return int(verdicts.sum()) / len(verdicts)


def metrics(verdicts: Verdicts, config: EvaluationConfig) -> dict[str, float]:
    """Shares in [0, 1] and facts, by name.

    clean_accuracy; robust_accuracy: right under every attack at the search's eps;
    robust_accuracy/<attack>; robust_accuracy/eps_<r> and robust_accuracy/eps_<r>/<attack> at the
    other radii. In a cascade the number of an attack is of it and of all cheaper ones.
    drop_rate: (clean − robust)/clean, 0 without any right sample. distance/<attack>: median length
    of an unbounded attack's successful perturbations. num_samples.
    """
    clean, robust = (share(right(verdicts, measure, config)) for measure in (CLEAN, ROBUST))
    found = {
        CLEAN.metric: clean,
        ROBUST.metric: robust,
        "drop_rate": (clean - robust) / clean if clean else 0.0,
        "num_samples": float(len(verdicts.clean)),
    }
    for measure in measures(config):
        found[measure.metric] = share(right(verdicts, measure, config))
    for name, distances in verdicts.distances.items():
        broken = distances[(distances > 0) & distances.isfinite()].tolist()
        if broken:
            found[f"distance/{name}"] = statistics.median(broken)
    return found


def right(verdicts: Verdicts, measure: Measure, config: EvaluationConfig) -> Tensor:
    """bool, (N,): which samples count as right in a measure."""
    if measure.kind == "clean":
        return verdicts.clean
    eps = config.eps if measure.eps is None else measure.eps
    if measure.attack is None:
        return verdicts.robust(eps)
    return verdicts.under(eps, measure.attack)
