from __future__ import annotations

import csv
import io

from builders import configured, record
from tune.results.rows import row_of, to_csv

STAGES = (
    {"name": "squeeze", "key": "a", "seconds": 2.0, "built": True},
    {"name": "recover", "key": "b", "seconds": 5.0, "built": False},
)


def test_a_row_names_what_is_validation_and_what_is_test() -> None:
    row = row_of(record(3, 0.9, 0.5, stages=STAGES))
    assert row["validation/clean_accuracy"] == 0.9
    assert row["test/clean_accuracy"] == 0.9
    assert "clean_accuracy" not in row
    assert (row["trial"], row["method"], row["ipc"], row["weight"], row["h"]) == (
        3,
        "sre2l",
        10,
        0.1,
        0.1,
    )
    assert row["stage_seconds"] == 2.0
    assert row_of(record(0, 0.9, 0.5, configured(control=True)))["h"] is None
    attacked = row_of(record(0, 0.9, 0.5, configured({"regularizer": "pgd-at"})))
    assert (attacked["weight"], attacked["h"]) == (None, None), "it reads neither"


def test_a_table_has_the_columns_of_every_row_and_full_precision() -> None:
    text = to_csv([row_of(record(0, 0.0, 0.0, status="diverged")), row_of(record(1, 1 / 3, 0.5))])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[:10] == [
        "trial",
        "phase",
        "status",
        "dataset",
        "method",
        "regularizer",
        "weight",
        "h",
        "ipc",
        "seed",
    ]
    assert float(rows[1]["validation/clean_accuracy"]) == 1 / 3
    assert rows[0]["validation/clean_accuracy"] == ""
