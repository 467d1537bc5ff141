from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders import configured, record
from guard.trial import TrialConfig
from tune.results.folder import StudyFolder, write_atomically
from tune.results.front import choose, control_of, pareto_front

STAGES = (
    {"name": "squeeze", "key": "a", "seconds": 2.0, "built": True},
    {"name": "recover", "key": "b", "seconds": 5.0, "built": False},
)
PLAIN = configured(control=True)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    made = record(3, 0.9, 0.1 + 0.2, stages=STAGES, seconds=9.0, waiting_seconds=1.0)
    folder.write(made)
    assert folder.read(3) == made
    assert folder.read(4) is None
    assert folder.records() == [made]


def test_a_record_s_file_has_its_fields_by_name(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    folder.write(record(3))
    written = json.loads((folder.path / "trials" / "00003.json").read_text())
    assert list(written) == [
        "trial",
        "status",
        "reason",
        "control",
        "params",
        "config",
        "fingerprint",
        "metrics",
        "seconds",
        "waiting_seconds",
        "stages",
        "paths",
        "phase",
        "ended",
    ]


def test_a_diverged_trial_scores_nothing() -> None:
    assert record(0, 0.9, 0.9, status="diverged").objectives == (0.0, 0.0)


def test_the_front_holds_what_nothing_dominates() -> None:
    records = [
        record(0, 0.9, 0.1),
        record(1, 0.8, 0.5),
        record(2, 0.8, 0.4),
        record(3, 0.7, 0.5),
        record(4, 1.0, 1.0, status="failed"),
        record(5, 0.9, 0.1),
    ]
    assert [r.trial for r in pareto_front(records)] == [0, 5, 1]


def test_the_choice_is_the_most_robust_that_stays_clean() -> None:
    control = record(0, 0.90, 0.1, PLAIN)
    records = [control, record(1, 0.88, 0.5), record(2, 0.80, 0.9), record(3, 0.89, 0.5)]
    chosen = choose(records, max_clean_drop=0.03)
    assert chosen is not None and chosen.trial == 3
    loose = choose(records, max_clean_drop=0.2)
    assert loose is not None and loose.trial == 2


def test_each_ipc_is_held_against_its_own_control() -> None:
    one, ten = (
        record(i, c, 0.1, configured({"ipc": ipc}, control=True))
        for i, c, ipc in [(0, 0.5, 1), (1, 0.9, 10)]
    )
    small = record(2, 0.5, 0.4, configured({"ipc": 1}))
    assert control_of(small, [ten, one, small]) == one
    chosen = choose([one, ten, small, record(3, 0.6, 0.9)], 0.03)
    assert chosen is not None and chosen.trial == 2
    assert choose([small], 0.03) is None


def test_tables_and_best_are_written(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    records = [record(0, 0.9, 0.1, PLAIN), record(1, 0.9, 0.4)]
    folder.write_tables(records, records[1])
    best = TrialConfig.from_json((folder.path / "best.json").read_text())
    assert best == TrialConfig.from_dict(records[1].config)
    assert len((folder.path / "results.csv").read_text().splitlines()) == 3
    assert len((folder.path / "pareto.csv").read_text().splitlines()) == 2


def test_writing_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, json.dumps({"a": 1}))

    def broken(*args: object) -> None:
        raise OSError

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError):
        write_atomically(path, "half")
    assert json.loads(path.read_text()) == {"a": 1}
