"""What a study has found can be read without Ray, Optuna, MLflow, and torch until it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import tune

HOUSE = Path(tune.__file__).parent.parent
WINGS = ("guard", "tune", "studies")
ROOMS = sorted(
    ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")
    for path in (HOUSE / "tune/results").glob("*.py")
)
HEAVY = {"ray", "optuna", "mlflow", "rich", "matplotlib", "plotly"}


def file_of(module: str) -> Path | None:
    """The file of a module of the project; None for any other name."""
    place = HOUSE.joinpath(*module.split("."))
    if module.split(".")[0] not in WINGS:
        return None
    found = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def modules(nodes: list[ast.stmt] | list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imported(module: str, *, when_loaded: bool) -> frozenset[str]:
    """Modules that a module imports, and the packages that they are in; `when_loaded`: only those
    at the top level of its file."""
    path = file_of(module)
    assert path is not None
    tree = ast.parse(path.read_text())
    named = set(modules(tree.body if when_loaded else list(ast.walk(tree))))
    return frozenset(
        ".".join(parts[:end])
        for parts in (name.split(".") for name in named)
        for end in range(1, len(parts) + 1)
    )


def reached(module: str, *, when_loaded: bool) -> set[str]:
    """Every name that is imported by a module, or by what it imports of the project."""
    found: set[str] = set()
    left = [module]
    while left:
        new = imported(left.pop(), when_loaded=when_loaded) - found
        found |= new
        left += [name for name in new if file_of(name)]
    return found


def test_the_walk_follows_imports() -> None:
    assert len(ROOMS) > 7
    findings = reached("tune.results.findings", when_loaded=True)
    assert {"tune", "tune.results.records", "guard.pipeline", "numpy"} <= findings
    assert "torch" in reached("tune.results.comparison", when_loaded=False)
    assert "ray" in reached("tune.runs", when_loaded=False) | reached("tune.desk", when_loaded=True)


@pytest.mark.parametrize("room", ROOMS)
def test_results_need_no_ray_optuna_or_mlflow(room: str) -> None:
    assert not reached(room, when_loaded=False) & HEAVY


@pytest.mark.parametrize("room", ROOMS)
def test_results_load_no_torch(room: str) -> None:
    assert not reached(room, when_loaded=True) & {"torch", "torchvision", "torchattacks"}


@pytest.mark.parametrize("room", ROOMS)
def test_results_know_nothing_of_the_search(room: str) -> None:
    own = {name for name in reached(room, when_loaded=False) if name.startswith(WINGS[1:])}
    files = {name for name in own if file_of(name)}
    assert files <= {"tune", *ROOMS}
