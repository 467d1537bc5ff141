from __future__ import annotations

from pathlib import Path

import pytest

import guard
from helpers import imported

ROOT = Path(guard.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
CONFIG = sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("config/*.py"))
METHODS = sorted(
    str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("methods/**/__init__.py")
)
"""Where the methods plan; their work is in the files beside."""
NO_TORCH = (
    "__init__",
    "artifacts",
    "background",
    "card",
    "committees",
    "data/__init__",
    "data/spec",
    "errors",
    "objects",
    "pipeline",
    "trial_stages",
    "remote",
    "stage",
    "stages",
    "sums",
    "teachers",
    "trial",
    "methods/method",
    "methods/mtt/experts",
    "methods/mtt/published",
    "robustness/__init__",
    "robustness/beard",
    "robustness/flags",
    "robustness/measures",
    "robustness/stages",
    *CONFIG,
    *METHODS,
)


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_the_walk_finds_imports() -> None:
    assert "torchattacks" in packages(ROOT / "robustness/attacks/__init__.py")
    assert "torchvision.datasets" in imported(ROOT / "data/sources.py")
    assert "torchvision.datasets" not in imported(ROOT / "data/sources.py", when_loaded=True)
    assert "guard.methods.sre2l.SRe2L" in imported(ROOT / "trial.py")
    assert len(FILES) > 15
    assert len(METHODS) > 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_nothing_of_the_cluster(path: Path) -> None:
    assert not packages(path) & {"ray", "optuna", "mlflow", "rich", "tune", "studies"}


def test_attacks_alone_import_torchattacks() -> None:
    found = {path.parent for path in FILES if "torchattacks" in packages(path)}
    assert found == {ROOT / "robustness/attacks"}


@pytest.mark.parametrize("name", NO_TORCH)
def test_planning_files_load_no_torch(name: str) -> None:
    loaded = imported(ROOT / f"{name}.py", when_loaded=True)
    assert not {module.split(".")[0] for module in loaded} & {"torch", "torchvision", "numpy"}
    own = {module.removeprefix("guard.").replace(".", "/") for module in loaded}
    files = {module for module in own if (ROOT / f"{module}.py").is_file()}
    files |= {f"{module}/__init__" for module in own if (ROOT / module / "__init__.py").is_file()}
    assert files <= set(NO_TORCH)


def test_the_config_package_is_walked() -> None:
    assert len(CONFIG) > 3
    assert "guard.config.shared" in imported(ROOT / "config/__init__.py", when_loaded=True)


@pytest.mark.parametrize("name", CONFIG)
def test_a_config_knows_only_its_schema_and_its_errors(name: str) -> None:
    known = ("guard.config", "guard.errors")
    own = {module for module in imported(ROOT / f"{name}.py") if module.startswith("guard.")}
    assert all(module.startswith(known) for module in own)


KNOWS_NO_STAGES = (
    "robustness/attacks/__init__",
    "robustness/attacks/cw",
    "robustness/attacks/draws",
    "robustness/attacks/passes",
    "robustness/attacks/pgd",
    "robustness/hessian",
    "data/augment",
    "data/dsa",
    "data/spec",
    "methods/dc/gradients",
    "methods/mtt/trajectory",
    "models/networks",
    "training/loop",
    "training/losses",
    "training/penalties",
    "seeding",
)


@pytest.mark.parametrize("name", KNOWS_NO_STAGES)
def test_work_on_tensors_knows_no_stages(name: str) -> None:
    plans = ("artifacts", "stage", "stages", "trial", "pipeline", "methods")
    assert not imported(ROOT / f"{name}.py") & {f"guard.{part}" for part in plans}
