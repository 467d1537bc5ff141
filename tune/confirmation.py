"""New seeds for what a search found: its front and their controls, on the test split alone.

The best of many trials looks better than it is; these runs took no part in choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from guard.config import TrialConfig
from guard.pipeline import RunStage, TrialResult, run_trial
from tune.records import (
    CONFIRMATION,
    Record,
    StudyFolder,
    control_of,
    one_line,
    pareto_front,
)

TICK_S = 0.5


@dataclass(frozen=True)
class Confirmation:
    """What is run again, and how."""

    seeds: int = 3
    """New seeds of each configuration; 0: nothing is confirmed."""
    configurations: int = 3
    """Of the Pareto front, at most: the chosen one, then the most robust ones."""
    attacks: tuple[str, ...] = ("standard",)


@dataclass(frozen=True)
class Planned:
    """One run: the trial of the search that it confirms, and its config."""

    origin: Record
    config: TrialConfig


def planned(plan: Confirmation, records: list[Record], best: Record | None) -> list[Planned]:
    """Every run of the confirmation. Its seeds follow the largest that the search used."""
    ranked = sorted(pareto_front(records), key=lambda r: (-r.objectives[1], r.trial))
    front = distinct([*([best] if best is not None else []), *ranked])[: plan.configurations]
    controls = [control for record in front if (control := control_of(record, records))]
    every = distinct([*controls, *front])
    first = 1 + max((record.config["seed"] for record in records), default=0)
    return [
        Planned(record, confirmed_config(record, first + number, plan.attacks))
        for number in range(plan.seeds)
        for record in every
    ]


def distinct(records: list[Record]) -> list[Record]:
    """The first record of each config."""
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(record.fingerprint, record)
    return list(first.values())


def confirmed_config(record: Record, seed: int, attacks: tuple[str, ...]) -> TrialConfig:
    """The trial's config with a new seed of everything that trains, on the test split."""
    return TrialConfig.from_dict(record.config).override(
        {
            "seed": seed,
            "student.seed": seed,
            "evaluation.attacks": list(attacks),
            "evaluation.splits": ["test"],
        }
    )


def confirm(
    folder: StudyFolder,
    runs: Iterable[Planned],
    run_stage: Callable[[], RunStage],
    slots: int,
    finished: Callable[[Record], None],
    tick: Callable[[], None],
) -> None:
    """Do the runs, `slots` at a time, and write their records.

    `finished` hears of each one, `tick` is called while others run, both on this thread.
    """

    def work(run: Planned) -> Record:
        number, control = run.origin.trial, run.origin.control
        params = run.origin.params
        try:
            result: TrialResult = run_trial(run.config, run_stage())
        except Exception as error:
            reason = one_line(error)
            return Record.failed(number, run.config, params, control, reason, CONFIRMATION)
        return Record.of(number, run.config, params, control, result, CONFIRMATION)

    pool = ThreadPoolExecutor(slots)
    left: set[Future[Record]] = {pool.submit(work, run) for run in runs}
    try:
        while left:
            done, left = wait(left, TICK_S, FIRST_COMPLETED)
            for future in done:
                folder.write(future.result())
                finished(future.result())
            tick()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def unconfirmed(folder: StudyFolder, runs: list[Planned]) -> list[Planned]:
    """The runs without a finished record of the same config."""
    known = {record.fingerprint for record in folder.confirmations() if record.finished}
    return [run for run in runs if run.config.fingerprint() not in known]
