"""What pyproject.toml asks for can be had by whoever installs the project, with whatever tool."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PROJECT: dict[str, Any] = tomllib.loads(
    (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
)


def asked_for(requirement: Requirement, by: str, seen: set[str]) -> list[str]:
    """Lines about what a requirement, and what it requires, does not find installed."""
    if str(requirement) in seen:
        return []
    seen.add(str(requirement))
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return [f"{by} asks for {requirement}, which is not there"]
    lines = []
    if not requirement.specifier.contains(found, prereleases=True):
        lines.append(f"{by} asks for {requirement}, and {found} is there")
    for text in requires(requirement.name) or ():
        inner = Requirement(text)
        extras = requirement.extras or {""}
        if not inner.marker or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
            lines += asked_for(inner, requirement.name, seen)
    return lines


def test_what_is_installed_is_what_everything_asks_for() -> None:
    seen: set[str] = set()
    project = PROJECT["project"]
    wanted = map(Requirement, project["dependencies"])
    assert [line for own in wanted for line in asked_for(own, project["name"], seen)] == []
    assert len(seen) > 50


def test_nothing_is_resolved_by_settings_that_other_projects_do_not_get() -> None:
    own = PROJECT["tool"].get("uv", {})
    assert not {"override-dependencies", "constraint-dependencies", "sources"} & own.keys()
