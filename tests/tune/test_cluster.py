"""What of the project travels: to every node of a cluster, and into the wheel."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package
from ray._private.thirdparty.pathspec import PathSpec

import tune
from tune.cluster import PACKAGES, shipped_code

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
