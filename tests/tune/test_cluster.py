"""How Ray starts, and what of the project travels to every node of a cluster and into the wheel."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ray._private.runtime_env.packaging import create_package
from ray._private.thirdparty.pathspec import PathSpec

import tune
from guard.errors import StudyError
from helpers import run_python
from tune.cluster import PACKAGES, shipped_code, started

ROOT = Path(tune.__file__).resolve().parents[1]


def needed(package: Path) -> set[str]:
    """Modules, and the files that they read, by their path in the package."""
    found = [*package.rglob("*.py"), *package.rglob("*.typed")]
    found += [*package.glob("reporting/*.csv"), *package.glob("reporting/**/*.j2")]
    assert len(found) > 5
    return {str(path.relative_to(package)) for path in found}


@pytest.mark.parametrize("name", PACKAGES)
def test_every_node_gets_the_code_and_none_of_the_results(name: str, tmp_path: Path) -> None:
    shipped = shipped_code()
    package, archive = ROOT / name, tmp_path / "code.zip"
    assert str(package) in shipped["py_modules"]
    create_package(str(package), archive, include_gitignore=True, excludes=shipped["excludes"])
    files = set(zipfile.ZipFile(archive).namelist())
    assert needed(package) <= files
    assert not [file for file in files if file.endswith(".png")]
    assert name == "tune" or not [file for file in files if file.startswith("results/")]


def test_the_wheel_has_the_code_and_none_of_the_results() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    left_out = PathSpec.from_lines("gitwildmatch", wheel["exclude"])
    assert set(wheel["packages"]) == set(PACKAGES)
    assert left_out.match_file("studies/results/compare/accuracy.png")
    files = {f"{name}/{file}" for name in PACKAGES for file in needed(ROOT / name)}
    assert not list(left_out.match_files([*files, "guard/py.typed"]))


@pytest.mark.parametrize(
    ("address", "told"),
    [(None, "Ray does not start here"), ("x:1", "--address: cannot join Ray at x:1")],
)
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), RuntimeError("why\nmore"), KeyError]
)
def test_what_ray_raises_is_a_line(
    error: Any, address: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        raise error

    monkeypatch.setattr("ray.init", fail)
    with pytest.raises(StudyError) as caught, started(address):
        pass
    reasons = {OSError: "[Errno 28] No space left", RuntimeError: "why", type: "KeyError"}
    assert str(caught.value) == f"{told} ({reasons[type(error)]})"


def test_sigterm_while_ray_starts_does_what_it_did_before(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    monkeypatch.setattr("ray.init", lambda **options: sys.exit(signal.SIGTERM))  # as Ray's handler
    usual = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), started(None):
            pass
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert heard == [signal.SIGTERM]


def test_a_user_without_a_home_has_one_that_is_not_there() -> None:
    code = (
        "import os, pwd\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "os.environ.pop('HOME', None)\n"
        "import tune\n"
        "print(os.path.expanduser('~'))\n"
    )
    assert run_python(code).stdout == "/nonexistent\n"


EVENT = """
from ray._private import worker
from tune.cluster import events_aside
event = {"lines": ["a node is dead"], "pid": "raylet", "is_err": False}
usual = worker.print_to_stdstream
with events_aside():
    worker.print_to_stdstream(event, ignore_prefix=False)
assert worker.print_to_stdstream is usual
"""


def test_what_ray_says_of_machines_is_apart_from_what_a_study_says() -> None:
    found = subprocess.run(
        [sys.executable, "-c", EVENT], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (found.stdout, found.stderr) == ("", "a node is dead\n")
