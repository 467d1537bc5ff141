from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import configured
from guard.artifacts import ArtifactStore
from guard.errors import StudyError
from guard.stage import Stage
from guard.trial_stages import plan
from studies import report


def write(stage: Stage, store: ArtifactStore, folder: Path) -> Mapping[str, Any]:
    (folder / "result.bin").write_bytes(bytes(100))
    return {}


def test_a_whole_output_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    made = [store.get_or_build(stage, write).path for stage in plan(configured())]
    assert report.main([str(tmp_path / "digits"), "--verify"]) == 0
    assert capsys.readouterr().out == f"0 of {len(made)} results are damaged\n"
    (made[1] / "result.bin").write_bytes(bytes(99) + b"x")
    (made[2] / "stage.json").unlink()
    assert report.main([str(tmp_path / "digits"), "--verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    one = f"{made[1].relative_to(store.root)}: result.bin has other bytes than were written"
    other = f"{made[2].relative_to(store.root)}: stage.json is not there"
    assert sorted(lines[:2]) == sorted([one, other])
    assert lines[2].startswith(f"2 of {len(made)} results are damaged; ")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no results of studies"):
        report.main([str(tmp_path / "digits"), "--verify"])
