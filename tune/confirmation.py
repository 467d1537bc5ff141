"""New seeds for what a search found: its front, its own values to begin with, and their controls,
on the test split alone.

The best of many trials looks better than it is; these runs took no part in choosing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from guard.config import EvaluationConfig
from guard.config.rules import at_least
from guard.config.schema import Config
from guard.trial import TrialConfig
from tune.results.front import Controls, pareto_front, start_of
from tune.results.records import CONFIRMATION, SEEDS, Record
from tune.runs import Run


@dataclass(frozen=True, kw_only=True)
class Confirmation(Config):
    """What is run again, and how."""

    seeds: Annotated[int, at_least(0, at_most=1000)] = 3
    """New seeds of each configuration; 0: nothing is confirmed."""
    configurations: Annotated[int, at_least(1)] = 3
    """At most: the chosen one, the search's own values at its method and images per class, then
    the most robust ones of the Pareto front."""
    attacks: tuple[str, ...] = ("standard",)
    """Those of `evaluation.attacks`."""

    def check(self) -> None:
        EvaluationConfig(attacks=self.attacks)


def planned(
    plan: Confirmation, records: list[Record], best: Record | None, base: Mapping[str, Any]
) -> list[Run]:
    """Every run of the confirmation. Its seeds follow the largest that the search used. base: the
    search's own values by path."""
    wanted, known = candidates(plan, records, best, base), Controls(records)
    controls = [control for record in wanted if (control := known.of(record))]
    every = distinct([*controls, *wanted])
    seed = 1 + max((used(record, path) for record in records for path in SEEDS), default=0)
    return [
        Run(
            trial=record.trial,
            config=confirmed_config(record, seed + number, plan.attacks),
            params={**unseeded(record.params), "seed": seed + number},
            control=record.control,
            phase=CONFIRMATION,
        )
        for number in range(plan.seeds)
        for record in every
    ]


def candidates(
    plan: Confirmation, records: list[Record], best: Record | None, base: Mapping[str, Any]
) -> list[Record]:
    """The trials that are run again, as `Confirmation.configurations` says."""
    ranked = sorted(pareto_front(records), key=lambda r: (-r.objectives[1], r.trial))
    start = start_of(best, records, base) if best is not None else None
    first = [record for record in (best, start) if record is not None]
    return distinct([*first, *ranked])[: plan.configurations]


def without_own_control(
    wanted: Iterable[Record], records: Iterable[Record]
) -> list[dict[str, Any]]:
    """What the controls of trials would draw that no control of the search has drawn, however it
    ended."""
    drawn = [record.unregularized for record in records if record.control]
    found: list[dict[str, Any]] = []
    for record in wanted:
        if not record.control and record.unregularized not in (*drawn, *found):
            found.append(record.unregularized)
    return found


def used(record: Record, seed: str) -> int:
    """What a record's config has at the path of a seed."""
    found: Any = record.config
    for name in seed.split("."):
        found = found[name]
    return int(found)


def distinct(records: list[Record]) -> list[Record]:
    """The first record of each config, whatever its seeds."""
    first: dict[str, Record] = {}
    for record in records:
        seedless = TrialConfig.from_dict(record.config).override(dict.fromkeys(SEEDS, 0))
        first.setdefault(seedless.fingerprint(), record)
    return list(first.values())


def unseeded(params: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in params.items() if path not in SEEDS}


def confirmed_config(record: Record, seed: int, attacks: tuple[str, ...]) -> TrialConfig:
    """The trial's config with a new seed of everything that trains and of the attacks, on the test
    split. A control has the seeds of what is held against it."""
    return TrialConfig.from_dict(record.config).override(
        {
            **dict.fromkeys(SEEDS, seed),
            "evaluation.attacks": list(attacks),
            "evaluation.splits": ["test"],
        }
    )
