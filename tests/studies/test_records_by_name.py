"""What is kept or shown names its fields: a value too many or in another order is an error."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import studies.reporting
import tune.results
from tune.results.folder import StudyFolder

ROOMS = [
    "tune.runs",
    "tune.timeline",
    "studies.design.study",
    *(
        f"{package.__name__}.{found.name}"
        for package in (tune.results, studies.reporting)
        for found in pkgutil.iter_modules(package.__path__)
    ),
]
PLACES = (StudyFolder,)
"""Places, as a path is one: folder and name."""


def records() -> Iterator[type]:
    for room in ROOMS:
        for found in vars(importlib.import_module(room)).values():
            if isinstance(found, type) and found.__module__ == room:
                yield found


RECORDS = [found for found in records() if dataclasses.is_dataclass(found)]


def test_the_rooms_have_records() -> None:
    assert {"Record", "Run", "Story", "Cloud", "Published"} <= {own.__name__ for own in RECORDS}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_is_made_by_name(record: type) -> None:
    fields = dataclasses.fields(record)  # type: ignore[arg-type]
    assert all(field.kw_only for field in fields) or record in PLACES
