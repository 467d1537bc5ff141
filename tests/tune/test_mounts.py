from __future__ import annotations

from pathlib import Path

import pytest

from tune import mounts

MOUNTED = """sysfs /sys sysfs rw 0 0
/dev/vda / ext4 rw 0 0
server:/export /shared nfs4 rw,vers=4.2 0 0
//nas/me /my\\040disk cifs rw 0 0
tmpfs /shared/local tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("/home/me/runs", False),
        ("/shared/runs/not/there/yet", True),
        ("/shared/local/runs", False),
        ("/my disk/runs", True),
    ],
)
def test_a_file_system_of_another_machine_is_known(
    path: str, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "mounts"
    listed.write_text(MOUNTED.replace("\\\\", "\\"))
    monkeypatch.setattr(mounts, "MOUNTS", listed)
    assert mounts.is_on_network(Path(path)) is is_there


def test_without_a_list_of_mounts_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert not mounts.is_on_network(tmp_path)
