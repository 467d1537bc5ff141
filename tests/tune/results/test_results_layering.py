"""What a study has found can be read without Ray, Optuna, MLflow, and torch until it is used."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import tune
from helpers import imported

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


@cache
def loaded(module: str, *, when_loaded: bool) -> frozenset[str]:
    """Modules that a module imports, and the packages that they are in; `when_loaded`: only those
    at the top level of its file."""
    path = file_of(module)
    assert path is not None
    return frozenset(
        ".".join(names[:end])
        for names in (name.split(".") for name in imported(path, when_loaded=when_loaded))
        for end in range(1, len(names) + 1)
    )


def reached(module: str, *, when_loaded: bool) -> set[str]:
    """Every name that is imported by a module, or by what it imports of the project."""
    found: set[str] = set()
    left = [module]
    while left:
        new = loaded(left.pop(), when_loaded=when_loaded) - found
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
    plain = {"tune.causes", "tune.mounts", "tune.options", "tune.places", "tune.uris"}
    assert files <= {"tune", *plain, *ROOMS}
