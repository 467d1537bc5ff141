"""A search replayed on trials that have been run: what it would have found, and at what cost.

The real proposer proposes (`tune.proposer`). Each trial ends as that trial of a table ended which
lies nearest to it in the search space, after the seconds of those stages of it that no trial before
has shared.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from guard.stage import closure
from guard.trial import TrialConfig
from guard.trial_stages import Leg, TrialStages, rung_of
from tune.planning import Plan, prepare
from tune.proposer import Proposal, Proposer
from tune.results.front import allowed
from tune.results.growth import Front
from tune.results.records import SEEDS, Record
from tune.results.standing import Standing
from tune.space import Params, SearchSpace


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A replay at the end of a leg."""

    stage_seconds: float
    """Computed so far."""
    hypervolume: float
    """That the complete trials dominate which the constraint allows, in [0, 1]."""
    robust: float
    """Of the most robust one of them."""


class Outcome:
    """A trial that has been run, whole and with every look."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._seconds = record.seconds_of_stages
        stages = TrialStages.of(TrialConfig.from_dict(record.config))
        looks = [closure(look[-1]) for look in stages.rungs]
        self._looks = [[stage.address for stage in look] for look in looks]

    def after(self, proposal: Proposal) -> Record:
        """The record of a leg like it."""
        leg, own = proposal.leg, self.record
        metrics = {k: v for k, v in own.metrics.items() if rung_of(k) <= leg.looks}
        return replace(
            own,
            trial=proposal.number,
            params=proposal.params,
            status=own.status if leg.whole else "stopped",
            metrics=metrics,
        )

    def stages(self, leg: Leg) -> dict[str, float]:
        """Seconds of the stages that a leg needs, by address."""
        if leg.whole:
            return self._seconds
        needed = {address for look in self._looks[: leg.looks] for address in look}
        return {address: s for address, s in self._seconds.items() if address in needed}


class Table:
    """Trials that have been run, by where they lie in a space."""

    def __init__(self, records: Sequence[Record], space: SearchSpace) -> None:
        """records: one of each combination of some values."""
        self._space = space
        self._outcomes = {_key(dict(own.params), own.control): Outcome(own) for own in records}
        self._values = {
            path: sorted({own.params[path] for own in records if path in own.params}, key=str)
            for path in space.distributions
        }

    def nearest(self, proposal: Proposal) -> Outcome:
        """Raises KeyError where the table has none."""
        near = {path: self._near(path, value) for path, value in proposal.params.items()}
        return self._outcomes[_key(near, proposal.control)]

    def drawn(self, proposal: Proposal) -> str:
        """Its numbers that the table has but nearly: trials that differ in them share nothing."""
        numbers = {
            path: value
            for path, value in proposal.params.items()
            if not isinstance(self._space.distributions[path], CategoricalDistribution)
        }
        return json.dumps(numbers, sort_keys=True)

    def _near(self, path: str, value: Any) -> Any:
        distribution = self._space.distributions[path]
        if isinstance(distribution, CategoricalDistribution):
            return value
        place = scaled(value, distribution)
        return min(self._values[path], key=lambda own: abs(scaled(own, distribution) - place))


def replayed(table: Table, plan: Plan, max_clean_drop: float, slots: int) -> list[Mark]:
    """A mark for each leg of a search, of which so many are under way at a time."""
    study = optuna.create_study(directions=["maximize", "maximize"])
    standing = Standing(plan.folder, max_clean_drop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        prepare(study, plan, standing)
    proposer = Proposer(study, plan.space, standing, plan.num_trials, plan.reduction)
    begun: set[tuple[str, str]] = set()
    running: list[tuple[float, int, Record]] = []
    now = spent = 0.0
    marks: list[Mark] = []
    count = itertools.count()
    while True:
        while len(running) < slots and (proposal := proposer.next()) is not None:
            outcome, drawn = table.nearest(proposal), table.drawn(proposal)
            needed = {(drawn, k): s for k, s in outcome.stages(proposal.leg).items()}
            seconds = sum(s for stage, s in needed.items() if stage not in begun)
            begun |= needed.keys()
            spent += seconds
            heapq.heappush(running, (now + seconds, next(count), outcome.after(proposal)))
        if not running:
            return marks
        now, _, record = heapq.heappop(running)
        standing.add([record])
        proposer.ended(record.trial, record)
        marks.append(mark(standing, spent))


def mark(standing: Standing, spent: float) -> Mark:
    records = allowed(standing.records, standing.max_clean_drop)
    points = [record.objectives for record in records]
    front = Front()
    for point in points:
        front.add(*point)
    return Mark(
        stage_seconds=spent,
        hypervolume=front.hypervolume,
        robust=max((robust for _, robust in points), default=0.0),
    )


def scaled(value: float, distribution: BaseDistribution) -> float:
    """A number on the scale on which its distribution is even."""
    return math.log(value) if getattr(distribution, "log", False) else float(value)


def _key(params: Params, control: bool) -> str:
    own = {path: value for path, value in params.items() if path not in SEEDS}
    return json.dumps([own, control], sort_keys=True)
