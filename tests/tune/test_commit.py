from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tune.commit import git, lab_commit


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of somebody's project, with one commit; git knows no other one."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name, value in (("NAME", "a"), ("EMAIL", "a@example.org")):
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    root = tmp_path / "project"
    root.mkdir()
    (root / "own.py").write_text("")
    commit(root, init=True)
    return root


def commit(root: Path, init: bool = False) -> str:
    commands = [["init", "--quiet"]] if init else []
    for arguments in (*commands, ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return git(root, "rev-parse", "HEAD")


def package(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


def test_the_commit_is_that_of_the_repository_with_the_package(repository: Path) -> None:
    own = package(repository / "tune")
    made = commit(repository)
    assert len(made) == 40 and lab_commit(own) == made
    (own / "__init__.py").write_text("changed = True\n")
    assert lab_commit(own) == f"{made}+"


@pytest.mark.parametrize("ignored", [True, False])
def test_an_environment_within_another_project_has_none(repository: Path, ignored: bool) -> None:
    (repository / ".gitignore").write_text(".venv\n" if ignored else "")
    commit(repository)
    installed = package(repository / ".venv" / "lib" / "site-packages" / "tune")
    assert git(installed, "rev-parse", "HEAD") != ""
    assert lab_commit(installed) == ""


def test_outside_a_repository_there_is_none(repository: Path, tmp_path: Path) -> None:
    assert lab_commit(package(tmp_path / "alone")) == ""


def test_without_git_there_is_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = package(repository / "tune")
    commit(repository)
    monkeypatch.setenv("PATH", "")
    assert lab_commit(own) == ""
