"""What a search does next, and what Optuna is told of what it has done.

Optuna's ask and tell, asynchronous halving (`tune.halving`), and the constraint: a trial's clean
accuracy is at least its control's, less what it may lose. Trials wait for being told until the
controls are known. Nothing here imports Ray.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import optuna
from optuna.trial import TrialState

from guard.robustness.measures import CLEAN, ROBUST
from guard.trial import TrialConfig
from guard.trial_stages import Leg, TrialStages, rung_name
from tune.halving import Figures, Halving
from tune.results.records import Record
from tune.results.standing import Standing
from tune.settling import is_control, number_of, tell
from tune.space import Params, SearchSpace, configured


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A leg of a trial."""

    number: int
    """Of its record."""
    params: Params
    control: bool
    leg: Leg


class Proposer:
    """Proposes legs of trials, and hears how they end."""

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        standing: Standing,
        budget: int,
        reduction: float,
    ) -> None:
        """budget: trials that it may begin. reduction: of so many trials at a rung one goes on; 1:
        every trial goes to its end."""
        self._study, self._space, self._standing = study, space, standing
        self._left = budget
        self._climbs = reduction > 1
        self._halving = Halving(reduction)
        self._rungs: dict[int, list[str]] = {}
        self._asked: dict[int, optuna.Trial] = {}
        self._running: set[int] = set()
        self._held: list[Record] = []
        self._controls_known = False
        for record in standing.records:
            self._take_in(record)

    def next(self) -> Proposal | None:
        """A leg that can begin now; None: there is none, at least before another one ends."""
        return self._promoted() or self._new()

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, and nothing is left to run."""
        return not self._running and self._left <= 0 and self._halving.next() is None

    def ended(self, number: int, record: Record | None) -> None:
        """A leg has ended, and its record, if it has one, is among those of the search."""
        self._running.discard(number)
        if record is None or record.status == "failed":
            self._tell(number, record)
            return
        self._take_in(record)
        if record.status != "stopped":
            self._held.append(record)
            self._release()

    def close(self) -> None:
        """The search is over, or ended: tell Optuna what it does not know."""
        for record in self._held:
            self._tell(record.trial, record)
        self._held.clear()
        for number in set(self._asked) - self._running:
            self._tell(number, self._standing.of(number))

    def explained(self) -> list[Record]:
        """The trials that were stopped, with the reason as it is in the end."""
        return [
            replace(record, reason=self._reason(record))
            for record in self._standing.records
            if record.rung
        ]

    def _reason(self, record: Record) -> str:
        rungs = self._rungs[record.trial]
        rung = rungs[(record.rung or 1) - 1]
        ranked = self._halving.ranked(rung)
        place = ranked.index(record.trial) + 1
        there = f"at rung {record.rung} of {len(rungs)}"
        return f"{there}: place {place} of {len(ranked)}, {self._halving.places(rung)} go on"

    def _promoted(self) -> Proposal | None:
        found = self._halving.next()
        if found is None:
            return None
        number, rung = found
        record = self._standing.of(number)
        assert record is not None
        self._halving.go_on(number, rung)
        self._running.add(number)
        rungs = self._rungs[number]
        place = rungs.index(rung) + 1
        leg = Leg(looks=min(place + 1, len(rungs)), whole=place == len(rungs))
        return Proposal(number=number, params=dict(record.params), control=False, leg=leg)

    def _new(self) -> Proposal | None:
        if self._left <= 0:
            return None
        self._left -= 1
        trial = self._study.ask()
        params, control = self._space.suggest(trial), is_control(trial)
        number = number_of(trial)
        self._asked[number] = trial
        self._running.add(number)
        config = configured(self._space.base, params, control=control)
        return Proposal(number=number, params=params, control=control, leg=self._first(config))

    def _first(self, config: TrialConfig) -> Leg:
        rungs = rungs_of(config) if self._climbs else []
        regularized = config.regularizer.active
        return Leg(looks=1, whole=False) if rungs and regularized else Leg(looks=len(rungs))

    def _take_in(self, record: Record) -> None:
        """What a record says at its rungs. Controls do not compete."""
        if record.control or record.status not in ("stopped", "complete"):
            return
        number = record.trial
        if number not in self._rungs:
            self._rungs[number] = rungs_of(TrialConfig.from_dict(record.config))
        reached = dict(zip(self._rungs[number], seen(record), strict=False))
        for place, (rung, figures) in enumerate(reached.items(), start=1):
            self._halving.arrive(number, rung, figures)
            if place < len(reached) or record.status == "complete":
                self._halving.go_on(number, rung)

    def _release(self) -> None:
        """Tell what was held back, if the controls are known."""
        for record in [r for r in self._held if r.control]:
            self._tell(record.trial, record)
        if not self._controls_known:
            states = (TrialState.WAITING, TrialState.RUNNING)
            self._controls_known = not any(map(is_control, self._study.get_trials(False, states)))
        others = [record for record in self._held if not record.control]
        for record in others if self._controls_known else ():
            self._tell(record.trial, record)
        self._held = [] if self._controls_known else others

    def _tell(self, number: int, record: Record | None) -> None:
        excess = self._standing.excess_of(record) if record else 0.0
        tell(self._study, self._asked.pop(number, None), record, self._space, excess)


def rungs_of(config: TrialConfig) -> list[str]:
    """What is measured at each rung of a trial, in order."""
    looks = TrialStages.of(config).rungs
    return [f"{look[-1].model.name} {number}" for number, look in enumerate(looks, start=1)]


def seen(record: Record) -> Iterator[Figures]:
    """What a trial has shown at each rung that it has come to, in order."""
    for rung in itertools.count(1):
        clean, robust = (record.metrics.get(m.on(rung_name(rung))) for m in (CLEAN, ROBUST))
        if clean is None or robust is None:
            return
        yield Figures(clean=clean, robust=robust)
