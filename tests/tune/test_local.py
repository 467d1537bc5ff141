"""Where a local Ray keeps its files, and who reaches it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from guard.errors import StudyError
from tune import local
from tune.local import short_folder

SOCKET = "r/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store"


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that are tried; the temporary folders of tests have names that are too long."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "LONGEST_BYTES", 200)
    tried: list[str] = []
    monkeypatch.setattr(local, "PLACES", tried)
    return tried


def test_the_folder_is_short_private_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/" + 8 * "scratch_local_jobs_")
    with short_folder() as folder:
        assert len(f"{folder}/{SOCKET}") <= 103
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        (Path(folder) / "r").mkdir()
    assert not Path(folder).exists()


def test_the_users_own_places_come_first(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    places.append(str(tmp_path / "c"))
    for name, place in (("TMPDIR", "b"), ("RAY_TMPDIR", "a")):
        with short_folder() as before:
            assert Path(before).parent.name > place
        monkeypatch.setenv(name, str(tmp_path / place))
        with short_folder() as folder:
            assert Path(folder).parent == tmp_path / place


def test_what_cannot_be_used_is_passed_over(places: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places += ["relative", str(tmp_path / "missing"), str(tmp_path / "file"), "/proc"]
    with pytest.raises(StudyError) as caught:
        short_folder().__enter__()
    told = str(caught.value)
    assert told.startswith("TMPDIR: Ray needs a folder for its sockets and logs, got relative: no")
    assert f"{tmp_path}/missing: no folder; {tmp_path}/file: no folder; /proc: " in told
    places.append(str(tmp_path))
    with short_folder() as folder:
        assert Path(folder).parent == tmp_path


def test_a_full_place_is_passed_over(
    places: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.append(str(tmp_path))
    monkeypatch.setattr(local, "LEAST_FREE_BYTES", 2**80)
    with pytest.raises(StudyError, match=f"{tmp_path}: full"):
        short_folder().__enter__()
