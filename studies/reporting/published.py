"""GUARD's published tables (Xue et al., AAAI 2025, arXiv 2403.10045), beside which ours stand.

published.csv: top-1 accuracy in percent at L_inf eps 1/255, single runs of a ResNet-18 (MTT, TESLA:
their own ConvNets). A number that cannot be right is marked by rule: above the clean one, or
AutoAttack above PGD-100.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from guard.trial import TrialConfig

FILE = Path(__file__).with_name("published.csv")
ATTACKS = ("clean", "pgd100", "square", "autoattack", "cw", "mim")
METHODS = {"sre2l": "SRe2L", "cda": "CDA", "dc": "DC", "mtt": "MTT", "tesla": "TESLA"}
MARK = " (!)"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One column of a published table."""

    table: str
    data: str
    ipc: int
    method: str
    accuracy: Mapping[str, float]
    """In percent, by attack."""

    def marked(self, attack: str) -> str:
        """The number as printed, with an exclamation mark if it cannot be right; KeyError
        for an attack that is not in `ATTACKS`."""
        value = self.accuracy[attack]
        above_clean = value > self.accuracy["clean"]
        too_strong = attack == "autoattack" and value > self.accuracy["pgd100"]
        return f"{value:.2f}{MARK if above_clean or too_strong else ''}"


@cache
def published() -> tuple[Published, ...]:
    with FILE.open(encoding="utf-8") as file:
        return tuple(
            Published(
                table=row["table"],
                data=row["data"],
                ipc=int(row["ipc"]),
                method=row["method"],
                accuracy={name: float(row[name]) for name in ATTACKS},
            )
            for row in csv.DictReader(file)
        )


def of_tables(numbers: Collection[str]) -> list[Published]:
    """The columns of the tables with these numbers, as far as they hold accuracies."""
    tables = {f"Table {number}" for number in numbers}
    return [column for column in published() if column.table in tables]


def beside(config: TrialConfig) -> str:
    """The published clean and AutoAttack accuracies of this data set, IPC, method and penalty, e.g.
    "57.93 / 19.69"; "" where there are none, or at another radius."""
    own = config.evaluation
    same_ball = own.norm == "Linf" and abs(own.eps * 255 - 1) < 1e-6
    if not same_ball or config.method not in METHODS:
        return ""
    plain, penalty = METHODS[config.method], config.regularizer
    names: tuple[str, ...] = (plain,)
    if penalty.active:
        is_guards = penalty.kind in ("curvature", "loss-difference")
        names = (f"{plain}+GUARD", *(["GUARD"] if plain == "SRe2L" else [])) if is_guards else ()
    for found in published():
        if (found.data, found.ipc) == (config.data.name, config.ipc) and found.method in names:
            return " / ".join(found.marked(attack) for attack in ("clean", "autoattack"))
    return ""
