from __future__ import annotations

from typing import Any

import pytest

from guard.trial import TrialConfig
from studies.reporting.published import ATTACKS, MARK, Published, beside, of_tables, published

MARKED = {
    ("Table 1", "imagenette", 1, "SRe2L", "autoattack"),
    ("Table 1", "imagenette", 10, "GUARD", "cw"),
    ("Table 1", "imagenette", 10, "SRe2L", "autoattack"),
    ("Table 1", "imagenette", 10, "SRe2L+Adv", "autoattack"),
    ("Table 2", "imagenette", 10, "SRe2L", "autoattack"),
    ("Table 2", "imagenette", 50, "GUARD", "autoattack"),
    ("Table 2", "imagenette", 50, "SRe2L", "autoattack"),
    ("Table 2", "imagenette", 100, "GUARD", "autoattack"),
    ("Table 3", "imagenette", 1, "SRe2L", "autoattack"),
    ("Table 3", "imagenette", 1, "gradient norm 1e-3", "autoattack"),
    ("Table 3", "imagenette", 1, "gradient norm 0.1", "autoattack"),
    ("Table 3", "imagenette", 10, "SRe2L", "autoattack"),
    ("Table 3", "imagenette", 10, "gradient norm 1e-4", "autoattack"),
    ("Table 3", "imagenette", 10, "gradient norm 1e-3", "autoattack"),
    ("Table 3", "imagenette", 10, "gradient norm 1e-2", "autoattack"),
    ("Table 3", "imagenette", 10, "gradient norm 0.1", "autoattack"),
    ("Table 3", "imagenette", 50, "SRe2L", "autoattack"),
    ("Table 3", "imagenette", 50, "GUARD", "autoattack"),
    ("Table 3", "imagenette", 50, "gradient norm 1e-4", "autoattack"),
    ("Table 3", "imagenette", 50, "gradient norm 1e-3", "autoattack"),
    ("Table 3", "imagenette", 50, "gradient norm 1e-2", "autoattack"),
    ("Table 3", "imagenette", 50, "gradient norm 0.1", "autoattack"),
    ("Table 5", "cifar10", 1, "DC+GUARD", "pgd100"),
    ("Table 5", "cifar10", 1, "DC+GUARD", "square"),
}


def find(table: str, data: str, ipc: int, method: str) -> Published:
    (found,) = (
        column
        for column in published()
        if (column.table, column.data, column.ipc, column.method) == (table, data, ipc, method)
    )
    return found


def test_only_what_cannot_be_right_is_marked() -> None:
    found = {
        (column.table, column.data, column.ipc, column.method, attack)
        for column in published()
        for attack in ATTACKS
        if MARK in column.marked(attack)
    }
    assert found == MARKED


def test_a_mark_stands_behind_the_figure_as_printed() -> None:
    guard = find("Table 1", "imagenette", 10, "GUARD")
    assert (guard.marked("clean"), guard.marked("cw")) == ("57.93", "58.67 (!)")
    dc = find("Table 5", "cifar10", 1, "DC+GUARD")
    names = ("pgd100", "square", "autoattack")
    assert [dc.marked(name) for name in names] == ["46.88 (!)", "48.56 (!)", "14.99"]


@pytest.mark.parametrize(
    ("accuracy", "marked"),
    [
        ({"autoattack": 30.0}, set()),
        ({"autoattack": 30.1}, {"autoattack"}),
        ({"cw": 50.0, "mim": 49.0}, set()),
        ({"cw": 50.1, "mim": 49.0}, {"cw"}),
        ({"autoattack": 50.1}, {"autoattack"}),
    ],
)
def test_the_rule_is_above_clean_or_autoattack_above_pgd(
    accuracy: dict[str, float], marked: set[str]
) -> None:
    plain = {"clean": 50.0, "pgd100": 30.0, "square": 40.0, "autoattack": 20.0}
    found = {**plain, "cw": 30.0, "mim": 30.0, **accuracy}
    column = Published(table="Table 1", data="x", ipc=1, method="GUARD", accuracy=found)
    assert {attack for attack in ATTACKS if MARK in column.marked(attack)} == marked


def test_every_published_column_is_there_once_in_percent() -> None:
    columns = [(p.table, p.data, p.ipc, p.method) for p in published()]
    assert len(set(columns)) == len(columns)
    assert all(0 < value < 100 for p in published() for value in p.accuracy.values())


@pytest.mark.parametrize(
    ("numbers", "tables"),
    [
        (("2", "6"), {"Table 2"}),
        (("1",), {"Table 1"}),
        (("1", "3", "5"), {"Table 1", "Table 3", "Table 5"}),
        ((), set()),
    ],
)
def test_a_study_is_shown_the_tables_that_it_is_after(
    numbers: tuple[str, ...], tables: set[str]
) -> None:
    found = of_tables(numbers)
    assert {column.table for column in found} == tables
    assert len(found) == sum(column.table in tables for column in published())


def config(**changes: Any) -> TrialConfig:
    own = {"data.name": "imagenette", "evaluation.eps": 1 / 255, "ipc": 10}
    return TrialConfig().override({**own, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "57.93 / 19.69"),
        ({"regularizer": "loss-difference"}, "57.93 / 19.69"),
        ({"regularizer": "none"}, "42.42 / 4.99 (!)"),
        ({"ipc": 50}, "80.86 / 42.47 (!)"),
        ({"method": "mtt", "regularizer": "none"}, "58.43 / 33.72"),
        ({"data.name": "cifar10", "method": "dc"}, "46.83 / 31.84"),
        ({"data.name": "cifar10", "ipc": 1, "method": "cda"}, "23.18 / 18.42"),
        ({"data.name": "cifar10"}, "30.76 / 21.58"),
        ({"data.name": "imagenet", "ipc": 50, "regularizer": "none"}, "46.80 / 0.47"),
    ],
)
def test_our_figure_stands_beside_the_published_one(changes: dict[str, Any], text: str) -> None:
    assert beside(config(**changes)) == text


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation.eps": 2 / 255},
        {"data.name": "digits"},
        {"ipc": 7},
        {"method": "random", "regularizer": "none"},
        {"method": "mtt"},
        {"regularizer": "pgd-at"},
        {"regularizer": "gradient-norm"},
        {"data.name": "cifar10", "ipc": 50, "method": "dc"},
    ],
    ids=str,
)
def test_nothing_stands_beside_what_was_not_published(changes: dict[str, Any]) -> None:
    assert beside(config(**changes)) == ""


def test_another_ball_of_the_same_radius_has_no_published_figure() -> None:
    config = TrialConfig().override(
        {"data.name": "imagenette", "evaluation.eps": 1 / 255, "regularizer": "none"}
    )
    assert beside(config) == "42.42 / 4.99 (!)"
    assert beside(config.override({"evaluation.norm": "L2"})) == ""
