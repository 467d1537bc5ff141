from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guard.config import DataConfig
from tune.preflight import Facts, Wanted, differences, facts, versions, written
from tune.results.folder import StudyFolder


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / ".shared-1").write_text("secret")
    return of(str(tmp_path))


def of(output: str) -> Wanted:
    return Wanted(
        data=DataConfig(),
        device="cpu",
        output=output,
        study="s",
        token=".shared-1",
        secret="secret",
    )


def test_a_machine_with_everything_has_no_problems(wanted: Wanted) -> None:
    assert facts(wanted, sees_device=True) == Facts(versions=versions(), problems=())


def test_versions_are_those_of_this_process() -> None:
    found = versions()
    assert found["Python"].startswith("3.") and all(found.values())


def test_all_problems_of_a_machine_are_told_at_once(wanted: Wanted, tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    bad = replace(wanted, secret="other", device="tpu", data=DataConfig(name="folder", path=path))
    output, device, data = facts(bad, sees_device=True).problems
    assert output == f"--output: {tmp_path}/s is not the driver's folder (secret)"
    assert device.startswith("--device: no device 'tpu' on this machine; there are: ")
    assert data == f"--data: data.path: {path} does not exist"


def test_a_folder_that_is_not_shared_is_told(wanted: Wanted, tmp_path: Path) -> None:
    (problem,) = facts(replace(wanted, token="x"), sees_device=True).problems
    reason = "is not the driver's folder (No such file or directory)"
    assert problem == f"--output: {tmp_path}/s {reason}"


def test_an_object_store_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path / "cache"))
    wanted = of(f"file://{tmp_path}/store")
    folder = StudyFolder.at(wanted.output, "s")
    with written(folder, wanted.token, wanted.secret):
        assert not facts(wanted, sees_device=True).problems
    (problem,) = facts(wanted, sees_device=True).problems
    assert problem.startswith(f"--output: file://{tmp_path}/store/s is not the driver's folder (")


def test_a_machine_that_is_not_for_the_device_need_not_have_it(wanted: Wanted) -> None:
    assert not facts(replace(wanted, device="tpu"), sees_device=False).problems


def test_data_of_another_content_is_told(wanted: Wanted) -> None:
    other = replace(wanted, data=DataConfig(sha256="0" * 64))
    (problem,) = facts(other, sees_device=True).problems
    assert problem.startswith("--data: data.sha256: digits holds ")


def test_other_versions_are_told_by_package() -> None:
    ours = {"Python": "3.12.1", "torch": "2.11.0", "ray": "2.60.0"}
    assert differences(ours, ours) == []
    theirs = {"Python": "3.12.1", "torch": "2.9.1", "ray": ""}
    assert differences(ours, theirs) == ["torch 2.9.1, the driver has 2.11.0", "has no ray"]
