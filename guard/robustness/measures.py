"""What an accuracy was measured under, as a key. Names of metrics and headings are made from it
here, and are never taken apart again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from guard.config import EvaluationConfig, radius_text
from guard.config.evaluation import AUTOATTACK, UNBOUNDED, reported


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Clean accuracy, or robust accuracy within a radius, in the worst case or under one attack."""

    kind: Literal["clean", "robust"]
    eps: float | None = None
    """The radius in pixels; None: the search's own, or no attack at all."""
    attack: str | None = None
    """None: right under every attack that ran."""

    @property
    def name(self) -> str:
        """Of a column: "clean", "robust/pgd20", "robust/eps_8_255/pgd20"."""
        return "/".join((self.kind, *self._details))

    @property
    def metric(self) -> str:
        """Of an evaluation's metric: "clean_accuracy", "robust_accuracy/eps_8_255/pgd20"."""
        return "/".join((f"{self.kind}_accuracy", *self._details))

    def on(self, split: str) -> str:
        """Of a trial's metric: "test/clean_accuracy"."""
        return f"{split}/{self.metric}"

    @property
    def heading(self) -> str:
        """For people: "clean", "robust at 8/255", "pgd20"."""
        radius = "" if self.eps is None else f" at {radius_text(self.eps)}"
        return f"{self.attack or self.kind}{radius}"

    @property
    def _details(self) -> tuple[str, ...]:
        radius = () if self.eps is None else (radius_name(self.eps),)
        return radius if self.attack is None else (*radius, self.attack)


CLEAN = Measure(kind="clean")
ROBUST = Measure(kind="robust")
"""The worst case within the search's radius."""


def radius_name(eps: float) -> str:
    """eps_8_255 for 8/255, eps_0.1 for 0.1."""
    return f"eps_{radius_text(eps).replace('/', '_')}"


def worst_cases(config: EvaluationConfig) -> list[Measure]:
    """Robust accuracy at each radius, the search's first."""
    others = (eps for eps in config.radii if eps != config.eps)
    return [ROBUST, *(Measure(kind="robust", eps=eps) for eps in others)]


def singled_out(config: EvaluationConfig, worst: Measure) -> list[Measure]:
    """Each attack that has a number of its own at the radius of a worst case: those named, and
    AutoAttack's parts. An unbounded attack has one at the search's radius alone."""
    names = reported(config.attacks)
    every = dict.fromkeys([*names, *(AUTOATTACK if "autoattack" in names else ())])
    return [
        Measure(kind="robust", eps=worst.eps, attack=name)
        for name in every
        if name not in UNBOUNDED or worst.eps is None
    ]


def measures(config: EvaluationConfig) -> Iterator[Measure]:
    """All that an evaluation says: clean, then each worst case and the attacks that it is of."""
    yield CLEAN
    for worst in worst_cases(config):
        yield worst
        yield from singled_out(config, worst)
