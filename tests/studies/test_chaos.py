"""Faults of every kind change nothing but the time that a study takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.bench import chaos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_study_under_faults_is_the_undisturbed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = chaos.main(["--faults", "16", "--each", "8", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "16 faults, 0 differences" in said
