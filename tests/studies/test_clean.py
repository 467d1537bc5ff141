from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import configured, record
from guard.artifacts import ArtifactStore
from guard.errors import StudyError
from guard.robustness.measures import CLEAN, ROBUST
from guard.stage import Stage, closure
from guard.trial_stages import TrialStages, plan, rung_name
from studies import clean
from tune.places import held
from tune.results.folder import StudyFolder

DAY_S = 24 * 3600


def write(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "result.bin").write_bytes(bytes(2**20))
    return {}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study of one trial, all of whose stages are there, and those of another's, which are a day
    older each."""
    made, store = StudyFolder(tmp_path, "s"), ArtifactStore(tmp_path / "artifacts")
    mine, other = configured(), configured({"seed": 9, "student.seed": 9})
    made.write(record(0, 0.9, 0.4, config=mine))
    for stage in plan(mine):
        os.utime(store.get_or_build(stage, write).path, (0, 0))
    for number, stage in enumerate(plan(other)):
        when = time.time() - number * DAY_S - 10
        os.utime(store.get_or_build(stage, write).path, (when, when))
    return made


def addresses(folder: StudyFolder) -> set[str]:
    root = folder.artifacts
    return {str(path.relative_to(root)) for path in root.glob("*/*")}


def planned(seed: int) -> list[Stage]:
    return plan(configured({"seed": seed, "student.seed": seed}))


def stages(seed: int) -> list[str]:
    return [stage.address for stage in planned(seed)]


def test_an_object_store_is_cleaned_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path / "cache"))
    uri = f"file://{tmp_path}/store"
    folder = StudyFolder.at(uri, "s")
    folder.write(record(0, 0.9, 0.4, config=configured()))
    for address in (*stages(0), *stages(9)):
        (stage,) = [stage for seed in (0, 9) for stage in planned(seed) if stage.address == address]
        folder.store.get_or_build(stage, write)
    assert clean.main([uri, "--older-than", "0"]) == 0
    assert f"{len(stages(9))} results" in capsys.readouterr().out
    assert folder.store.sizes().keys() == set(stages(0))


def test_what_a_stopped_trial_has_come_to_is_needed(tmp_path: Path) -> None:
    folder, config = StudyFolder(tmp_path, "s"), configured()
    looks = [look[-1] for look in TrialStages.of(config).rungs]
    reached = list(closure(looks[0]))
    for stage in reached:
        folder.store.get_or_build(stage, write)
    seen = {CLEAN.on(rung_name(1)): 0.9, ROBUST.on(rung_name(1)): 0.4}
    folder.write(record(0, config=config, status="stopped", metrics=seen))
    assert clean.main([str(folder.output), "--older-than", "0"]) == 0
    assert addresses(folder) == {stage.address for stage in reached}


def test_what_is_no_study_is_neither_locked_nor_counted(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.output / "photos" / "cats").mkdir(parents=True)
    assert clean.main([str(folder.output), "--dry-run"]) == 0
    assert "1 studies kept" in capsys.readouterr().out
    assert not (folder.output / "photos" / ".lock").exists()


def test_what_a_study_needs_stays_and_the_rest_goes(
    folder: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    others = stages(9)
    assert clean.main([str(folder.output), "--older-than", "3"]) == 0
    assert addresses(folder) == {*stages(0), *others[:3]}
    gone = len(others) - 3
    assert f"{gone} results, {gone}.0 MiB removed; 1 studies kept" in capsys.readouterr().out
    assert clean.main([str(folder.output), "--older-than", "0"]) == 0
    assert addresses(folder) == set(stages(0))


def test_what_a_stage_has_come_to_stays_until_it_is_abandoned(folder: StudyFolder) -> None:
    way = folder.artifacts / "squeeze" / ".checkpoint-0123"
    way.mkdir()
    (way / "state.pt").write_bytes(bytes(10))
    for days, stays in ((6, True), (8, False)):
        when = time.time() - days * DAY_S
        os.utime(way, (when, when))
        clean.main([str(folder.output), "--older-than", "0"])
        assert way.exists() == stays


def test_the_youngest_are_left_up_to_a_size(folder: StudyFolder) -> None:
    clean.main([str(folder.output), "--older-than", "0", "--keep", str(2.5 / 1024)])
    assert addresses(folder) == {*stages(0), *stages(9)[:2]}


def test_a_dry_run_removes_nothing(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = addresses(folder)
    clean.main([str(folder.output), "--older-than", "0", "--dry-run"])
    assert addresses(folder) == before
    told = capsys.readouterr().out
    assert all(address in told for address in stages(9)) and "would be removed" in told


def test_nothing_is_removed_while_a_study_runs(folder: StudyFolder) -> None:
    before = addresses(folder)
    with held(folder.path), pytest.raises(StudyError, match="is running"):
        clean.main([str(folder.output), "--older-than", "0"])
    assert addresses(folder) == before


@pytest.mark.parametrize("argument", ["--older-than", "--keep"])
def test_bad_amounts_are_refused(folder: StudyFolder, argument: str) -> None:
    for value in ("-1", "nan"):
        with pytest.raises(StudyError, match=f"{argument}: must be at least 0, got {value}"):
            clean.main([str(folder.output), argument, value])


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no results of studies"):
        clean.main([str(tmp_path)])


def test_nothing_goes_while_a_record_cannot_be_read(folder: StudyFolder) -> None:
    (folder.path / "trials" / "00007.json").write_text("{")
    before = sorted(folder.artifacts.glob("*/*"))
    with pytest.raises(StudyError, match=r"00007\.json is left out: .*, so nothing is removed"):
        clean.main([str(folder.output), "--older-than", "0"])
    assert sorted(folder.artifacts.glob("*/*")) == before
