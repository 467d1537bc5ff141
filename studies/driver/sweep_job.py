"""A study whose trials Optuna draws: the search, then the confirmation of what it found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import optuna

from guard.trial import TrialConfig
from guard.trial_stages import WHOLE, Leg
from studies.design.study import Story
from studies.driver.dryrun import print_fields, print_work
from studies.driver.options import SECTIONS
from studies.driver.request import Request
from studies.reporting.console import Terminal
from studies.reporting.terminal import print_places, print_summary
from tune.confirmation import Confirmation, candidates, planned, without_own_control
from tune.distributions import describe
from tune.planning import Plan, num_planned, open_study
from tune.planning import planned as planned_trials
from tune.proposer import Proposer
from tune.results.findings import Results, against_start
from tune.results.records import Record
from tune.results.standing import Standing
from tune.runs import Run, unfinished
from tune.settling import enqueue_new, lost, queued
from tune.space import Params, SearchSpace

if TYPE_CHECKING:
    from studies.driver.session import Session


FEW = 0.25
"""Share of a search's trials that is next to nothing for its sampler to propose."""


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A search, and what its front is confirmed with."""

    story: Story
    request: Request
    plan: Plan

    @property
    def base(self) -> TrialConfig:
        return self.plan.space.base

    @property
    def configs(self) -> list[TrialConfig]:
        return self.plan.space.control_configs()

    @property
    def cautions(self) -> list[str]:
        """That next to nothing is left to the sampler."""
        plan = self.plan
        controls, others = planned_trials(plan.space, plan.sampler)
        queued = len(controls) + len(others)
        if plan.sampler == "grid" or plan.num_trials - queued > FEW * plan.num_trials:
            return []
        return [
            f"{len(controls)} baselines (one for each choice of what is no field of the "
            f"regularizer) and {len(others)} trials at the search's own values come first, so the "
            f"sampler proposes {max(plan.num_trials - queued, 0)} of {plan.num_trials} trials"
        ]

    @property
    def varied(self) -> dict[str, str]:
        return {f"search {path}": text for path, text in self.searched.items()}

    @property
    def searched(self) -> dict[str, str]:
        """Each distribution in words, by path."""
        return {path: describe(d) for path, d in self.plan.space.distributions.items()}

    @cached_property
    def standing(self) -> Standing:
        """The records, once the folder is locked; they are read once."""
        return Standing(self.request.folder, self.request.options.search.max_clean_drop)

    @cached_property
    def study(self) -> optuna.Study:
        """The study in the folder's storage; opening it puts its queue in order."""
        return open_study(self.plan, self.standing)

    def counted(self) -> tuple[int, int]:
        return self.plan.num_trials - self.missing_trials(), self.plan.num_trials

    def unfinished(self) -> str:
        searching = self.unsearched()
        if searching:
            return searching
        runs = self.unconfirmed()
        return f"{len(runs)} runs of the confirmation" if runs else ""

    @property
    def is_searched(self) -> bool:
        """Whether as many trials as were asked for are done, and none is to go on from a rung."""
        return self.missing_trials() == 0 and self.proposer(0).is_over

    def unsearched(self) -> str:
        """What the search still has to do, in words; "" for nothing."""
        missing = self.missing_trials()
        if missing > 0:
            return f"{missing} trials"
        if not self.proposer(0).is_over:
            return "trials that go on from a rung"
        return "baselines of what is confirmed" if self.missing_controls() else ""

    def missing_controls(self) -> list[Params]:
        """What the baselines draw of what is confirmed, where the search has run none like it."""
        records = self.standing.records
        return without_own_control(candidates(*self.confirmed), records)

    def missing_trials(self) -> int:
        assert self.study  # what Optuna alone knows of is settled
        return max(self.plan.num_trials - self.standing.num_done, 0)

    def proposer(self, budget: int) -> Proposer:
        """What proposes the next trials. budget: new ones."""
        return Proposer(self.study, self.plan.space, self.standing, budget, self.plan.reduction)

    def best(self) -> Record | None:
        """The trial that the search chooses."""
        return self.standing.choice()

    def unconfirmed(self) -> list[Run]:
        """Runs of the confirmation that are missing."""
        return unfinished(planned(*self.confirmed), self.request.folder.confirmations())

    @property
    def confirmed(self) -> tuple[Confirmation, list[Record], Record | None, dict[str, Any]]:
        """What decides what is confirmed."""
        plan, records = self.request.options.confirm, self.standing.records
        return plan, records, self.best(), self.base.flat()

    def queued(self) -> Iterable[tuple[TrialConfig, Leg]]:
        leg = Leg(looks=1) if self.plan.reduction > 1 else WHOLE
        return ((config, leg) for config in queued(self.study, self.plan.space))

    def work(self, session: Session) -> None:
        """Search and confirm what is missing."""
        progress, tried = session.progress, list[Params]()
        progress.begin("trials", self.plan.num_trials, self.standing.num_done)
        self.repeat_lost(session)
        self.search(session, self.missing_trials())
        while self.is_searched and (more := self.missing_controls()) and more != tried:
            tried = more
            progress.begin("baselines of what is confirmed", len(more))
            enqueue_new(self.study, more, [])
            self.search(session, len(more))
        runs = self.unconfirmed() if not self.unsearched() else []
        if runs:
            progress.say(f"confirming with new seeds on test images: {len(runs)} runs")
            progress.begin("runs of the confirmation", len(runs))
            session.run(runs)

    def search(self, session: Session, budget: int) -> None:
        """Go on with the search. budget: trials that it may begin."""
        from tune.callback import StudyCallback  # they import Ray
        from tune.search import run_study, study_context

        context = study_context(self.plan, session.desk_name)
        callback = StudyCallback(
            context,
            session.desk,
            session.tracker,
            session.timeline,
            session.progress,
            self.standing,
            self.request.options.search.max_failures,
        )
        proposer = self.proposer(budget)
        run_study(proposer, context, session.desk, session.slots, callback)
        for record in proposer.explained():
            self.request.folder.write(record)
            session.tracker.finish(record)

    def repeat_lost(self, session: Session) -> None:
        """Do again the trials that Optuna has as complete and of which nothing is left."""
        runs = lost(self.study, self.standing, self.plan.space)
        if runs:
            numbers = ", ".join(str(run.trial) for run in runs)
            session.say(f"repeating trials whose records or verdicts are gone: {numbers}")
            session.run(runs)
            read = map(self.request.folder.read, (run.trial for run in runs))
            self.standing.add(record for record in read if record is not None)

    def write_tables(self) -> None:
        self.standing.add(self.request.folder.records())  # an interrupt may have come between
        self.standing.write_tables()

    def print_summary(self, console: Terminal, results: Results) -> None:
        max_clean_drop = self.request.options.search.max_clean_drop
        comparisons = list(results.comparisons)
        said = against_start(results)
        print_summary(console, self.standing.records, max_clean_drop, comparisons, said)
        print_places(console, self.request.folder, self.request.tracking_uri)

    def print_plan(self, console: Terminal) -> None:
        space, options = self.plan.space, self.request.options
        splits = print_fields(console, space.base, self.searched, options.listed(SECTIONS))
        controls = ", ".join(json.dumps(params) for params in space.controls())
        console.print(f"\nunregularized baselines, first: {controls}")
        print_work(console, space.base, splits, self.plan.num_trials)


def planned_job(story: Story, request: Request, space: SearchSpace) -> SweepJob:
    """The search of a checked space, with as many trials as are asked for."""
    queued, options = num_planned(space, request.sampler), request.options.search
    default = queued if request.sampler == "grid" else max(request.preset.num_trials, queued)
    num_trials = request.num_trials or default
    plan = Plan(
        folder=request.folder,
        space=space,
        num_trials=num_trials,
        sampler=request.sampler,
        seed=options.seed,
        reduction=1.0 if request.sampler == "grid" else options.reduction_of(num_trials),
        known=request.known,
        storage=options.storage,
    )
    return SweepJob(story=story, request=request, plan=plan)
