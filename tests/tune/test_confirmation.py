from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import configured, ended, record
from guard.pipeline import TrialResult
from guard.trial import TrialConfig
from tune.confirmation import Confirmation, planned, without_own_control
from tune.results.folder import StudyFolder
from tune.results.records import CONFIRMATION, Record
from tune.runs import Run, run_all, unfinished

PLAIN = configured(control=True)


def weighted(weight: float) -> TrialConfig:
    return configured({"regularizer.weight": weight})


def tried(trial: int, clean: float, robust: float, weight: float) -> Record:
    return record(
        trial, clean, robust, weighted(weight), params={"regularizer.weight": weight, "ipc": 10}
    )


RECORDS = [
    record(0, 0.99, 0.3, PLAIN),
    tried(1, 0.98, 0.5, 0.1),
    tried(2, 0.97, 0.6, 0.2),
    tried(3, 0.90, 0.7, 0.3),
    tried(4, 0.96, 0.4, 0.4),
]
NOWHERE = {"regularizer.weight": 9.0, "ipc": 5}
"""A search's own values, at which it had no trial."""


def test_the_front_and_its_controls_run_again_with_new_seeds() -> None:
    runs = planned(Confirmation(seeds=2, configurations=9), RECORDS, RECORDS[2], NOWHERE)
    assert [run.trial for run in runs] == [0, 2, 3, 1] * 2
    assert [run.config.seed for run in runs] == [1] * 4 + [2] * 4
    assert all(run.config.student.seed == run.config.seed for run in runs)
    assert all(run.config.evaluation.seed == run.config.seed for run in runs)
    assert all(run.config.evaluation.splits == ("test",) for run in runs)
    assert all(run.config.evaluation.attacks == ("standard",) for run in runs)


def test_the_chosen_one_comes_first_when_there_is_a_limit() -> None:
    runs = planned(Confirmation(seeds=1, configurations=2), RECORDS, RECORDS[2], NOWHERE)
    assert [run.trial for run in runs] == [0, 2, 3]


def test_a_trial_whose_recipe_no_control_has_lacks_its_own() -> None:
    def drawn(trial: int, mix: str, *, control: bool = False, **changes: Any) -> Record:
        penalty = {} if control else {"regularizer.weight": 0.2}
        params = {"ipc": 10, "student.mix": mix, **penalty}
        config = configured({"student.mix": mix}, control=control)
        return record(trial, config=config, params=params, control=control, **changes)

    none, cut, up = drawn(0, "none", control=True), drawn(1, "cutmix"), drawn(2, "mixup")
    wanted = [none, up, cut, replace(up, trial=3)]
    lacking = [{"ipc": 10, "student.mix": mix} for mix in ("mixup", "cutmix")]
    assert without_own_control(wanted, [none, cut, up]) == lacking
    ended = drawn(4, "mixup", control=True, status="diverged")
    assert without_own_control(wanted, [none, cut, up, ended]) == lacking[1:], "it was tried"


@pytest.mark.parametrize(("start", "confirmed"), [(0.4, [2, 4]), (0.2, [2, 3]), (9.0, [2, 3])])
def test_the_search_s_own_values_are_confirmed_beside_its_choice(
    start: float, confirmed: list[int]
) -> None:
    base = {"regularizer.weight": start, "ipc": 5}
    runs = planned(Confirmation(seeds=1, configurations=2), RECORDS, RECORDS[2], base)
    assert [run.trial for run in runs] == [0, *confirmed]


def test_no_seed_of_the_search_is_used() -> None:
    records = [*RECORDS, record(5, 0.99, 0.3, configured({"seed": 7}, control=True))]
    runs = planned(Confirmation(seeds=2), records, None, NOWHERE)
    assert {run.config.seed for run in runs} == {8, 9}


def test_the_same_config_is_confirmed_once() -> None:
    twice = [*RECORDS, tried(9, 0.97, 0.6, 0.2)]
    runs = planned(Confirmation(seeds=1, configurations=9), twice, twice[2], NOWHERE)
    assert sorted(run.trial for run in runs) == [0, 1, 2, 3]


def test_a_search_over_seeds_is_confirmed_once_a_config() -> None:
    over_seeds = [
        record(
            number,
            0.99 - number / 100,
            0.5 + number / 100,
            configured({"seed": seed, "student.seed": seed, "evaluation.seed": 9}, control=control),
            params={"seed": seed, "evaluation.seed": 9},
        )
        for number, (seed, control) in enumerate((s, c) for c in (True, False) for s in (0, 1, 2))
    ]
    runs = planned(Confirmation(seeds=2, configurations=9), over_seeds, over_seeds[5], NOWHERE)
    assert [run.config.seed for run in runs] == [10, 10, 11, 11], "the attacks had 9"
    assert [run.control for run in runs] == [True, False] * 2
    assert len({run.config.fingerprint() for run in runs}) == 4
    assert [run.params for run in runs] == [{"seed": run.config.seed} for run in runs]


def test_nothing_is_confirmed_without_seeds() -> None:
    assert planned(Confirmation(seeds=0), RECORDS, RECORDS[2], NOWHERE) == []


def do(folder: StudyFolder, runs: list[Run]) -> list[Record]:
    told: list[Record] = []
    thread = threading.get_ident()

    def finished(record: Record) -> None:
        assert threading.get_ident() == thread
        told.append(record)

    run_all(folder, runs, lambda stop: None, 2, finished, lambda: None)  # type: ignore[arg-type]
    return told


def test_runs_are_recorded_and_not_run_again(tmp_path: Path, pretend: Any) -> None:
    pretend(lambda config: ended())
    folder = StudyFolder(tmp_path, "s")
    runs = planned(Confirmation(seeds=2), RECORDS, RECORDS[2], NOWHERE)
    told = do(folder, runs)
    assert len(told) == len(runs) and all(record.phase == CONFIRMATION for record in told)
    assert unfinished(runs, folder.confirmations()) == []
    more = planned(Confirmation(seeds=3), RECORDS, RECORDS[2], NOWHERE)
    assert {run.config.seed for run in unfinished(more, folder.confirmations())} == {3}
    assert folder.records() == []
    assert [r.config["seed"] for r in folder.confirmations() if r.trial == 0] == [1, 2]
    assert len({record.label for record in told}) == len(told)


def test_other_attacks_are_another_confirmation(tmp_path: Path, pretend: Any) -> None:
    pretend(lambda config: ended())
    folder = StudyFolder(tmp_path, "s")
    do(folder, planned(Confirmation(seeds=1), RECORDS, None, NOWHERE))
    other = planned(Confirmation(seeds=1, attacks=("pgd20",)), RECORDS, None, NOWHERE)
    assert unfinished(other, folder.confirmations()) == other


def test_a_run_that_fails_is_recorded_and_stays_unconfirmed(tmp_path: Path, pretend: Any) -> None:
    def fail(config: TrialConfig) -> TrialResult:
        raise RuntimeError("no luck")

    pretend(fail)
    folder = StudyFolder(tmp_path, "s")
    runs = planned(Confirmation(seeds=1), RECORDS, None, NOWHERE)
    told = do(folder, runs)
    assert {record.status for record in told} == {"failed"}
    assert told[0].reason == "RuntimeError: no luck"
    assert unfinished(runs, folder.confirmations()) == runs


def test_an_interrupt_keeps_what_is_done(tmp_path: Path, pretend: Any) -> None:
    pretend(lambda config: ended())
    folder = StudyFolder(tmp_path, "s")
    runs = planned(Confirmation(seeds=3), RECORDS, RECORDS[2], NOWHERE)

    def interrupt(record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(folder, runs, lambda stop: None, 1, interrupt, lambda: None)  # type: ignore[arg-type]
    assert 1 <= len(folder.confirmations()) < len(runs)


def test_results_hold_both_phases_by_name(tmp_path: Path, pretend: Any) -> None:
    pretend(lambda config: ended())
    folder = StudyFolder(tmp_path, "s")
    do(folder, planned(Confirmation(seeds=1), RECORDS, None, NOWHERE))
    folder.write_tables(RECORDS, None)
    lines = (folder.path / "results.csv").read_text().splitlines()
    phases = [line.split(",")[1] for line in lines]
    assert phases == ["phase"] + ["search"] * 5 + ["confirmation"] * 4
