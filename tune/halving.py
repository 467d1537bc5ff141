"""Asynchronous successive halving over two objectives: which trials of a search go on.

Trials wait at rungs, and at each rung the best 1/eta of those that have come so far go on (ASHA,
https://arxiv.org/abs/1810.05934). The best of two figures: by non-dominated rank, and within a rank
by crowding distance (NSGA-II, https://doi.org/10.1109/4235.996017). Nothing here imports Ray or
Optuna.

They are not the search's objectives: a rung sees a teacher, and the most accurate teacher need not
have the best student. On CIFAR-10 a teacher's clean accuracy ranks students upside down
(`studies.samplers`). The share of its right answers that stay right under attack ranks them best;
its robust accuracy beside it holds back teachers that have learnt little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a trial shows at a rung, in [0, 1]."""

    clean: float
    robust: float
    """Accuracy without and under attack."""

    @property
    def kept(self) -> float:
        """Of the right answers, the share that stays right under attack."""
        return self.robust / self.clean if self.clean else 0.0


class Halving:
    """Who has come to which rung, and who has gone on. Trials are told apart by their numbers.

    A rung is named by what is measured there, so only figures that may be compared meet.
    """

    def __init__(self, eta: float) -> None:
        """eta: of as many trials one goes on, > 1."""
        self._eta = eta
        self._rungs: dict[str, dict[int, Figures]] = {}
        self._gone: dict[str, set[int]] = {}

    def arrive(self, trial: int, rung: str, figures: Figures) -> None:
        self._rungs.setdefault(rung, {})[trial] = figures
        self._gone.setdefault(rung, set())

    def go_on(self, trial: int, rung: str) -> None:
        """It has left the rung for the next one, or for its end."""
        self._gone[rung].add(trial)

    def next(self) -> tuple[int, str] | None:
        """A trial that may leave its rung, and the rung; the highest rung first, which was reached
        last."""
        for rung in reversed(self._rungs):
            for trial in self.best(rung):
                if trial not in self._gone[rung]:
                    return trial, rung
        return None

    def best(self, rung: str) -> list[int]:
        """Those of a rung that may go on, as it is now; the best first."""
        return self.ranked(rung)[: self.places(rung)]

    def places(self, rung: str) -> int:
        """How many of those that have come to a rung may go on: the first one always may, so that
        something is known early."""
        return math.ceil(len(self._rungs[rung]) / self._eta)

    def ranked(self, rung: str) -> list[int]:
        """Every trial that has come to a rung, the best first, whichever came first; of equals the
        earlier number."""
        own = dict(sorted(self._rungs[rung].items()))
        return [trial for _, trial in sorted(zip(ranks(list(own.values())), own, strict=True))]


def ranks(figures: Sequence[Figures]) -> list[int]:
    """The place of each, from 0."""
    order = [n for front in fronts(figures) for n in by_crowding(figures, front)]
    places = {n: place for place, n in enumerate(order)}
    return [places[n] for n in range(len(figures))]


def fronts(figures: Sequence[Figures]) -> list[list[int]]:
    """Indices by non-dominated rank: those that none of the rest beats, then again of the rest."""
    found = []
    left = sorted(range(len(figures)), key=lambda n: (-figures[n].kept, -figures[n].robust, n))
    while left:
        front: list[int] = []
        for n in left:
            last = figures[front[-1]] if front else None
            same = last and (last.kept, last.robust) == (figures[n].kept, figures[n].robust)
            if last is None or same or figures[n].robust > last.robust:
                front.append(n)
        found.append(front)
        kept = set(front)
        left = [n for n in left if n not in kept]
    return found


def by_crowding(figures: Sequence[Figures], front: Sequence[int]) -> list[int]:
    """A front by how far apart the neighbours of each are: its ends first, of which the most robust
    one is the very first."""
    order = sorted(front, key=lambda n: (-figures[n].robust, n))
    spans = {
        "kept": abs(figures[order[0]].kept - figures[order[-1]].kept) or 1.0,
        "robust": abs(figures[order[0]].robust - figures[order[-1]].robust) or 1.0,
    }
    distances = {order[0]: math.inf, order[-1]: math.inf}
    for before, n, after in zip(order, order[1:], order[2:], strict=False):
        distances[n] = sum(
            abs(getattr(figures[before], name) - getattr(figures[after], name)) / span
            for name, span in spans.items()
        )
    return sorted(order, key=lambda n: -distances[n])
