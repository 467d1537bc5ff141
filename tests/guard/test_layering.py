from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import guard

ROOT = Path(guard.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NO_TORCH = ("__init__", "artifacts", "config", "errors", "pipeline", "schema", "methods/__init__")


def imported(path: Path, *, when_loaded: bool = False) -> set[str]:
    """Modules that a file imports; `when_loaded`: only those at the top level of the file."""
    tree = ast.parse(path.read_text())
    return set(modules(tree.body if when_loaded else list(ast.walk(tree))))


def modules(nodes: list[ast.stmt] | list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_the_walk_finds_imports() -> None:
    assert "torchattacks" in packages(ROOT / "attacks.py")
    assert "guard.stages" in imported(ROOT / "pipeline.py")
    assert "guard.stages" not in imported(ROOT / "pipeline.py", when_loaded=True)
    assert "guard.methods.sre2l" in imported(ROOT / "stages.py")
    assert len(FILES) > 15


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_nothing_of_the_cluster(path: Path) -> None:
    assert not packages(path) & {"ray", "optuna", "mlflow", "rich", "tune", "studies"}


def test_one_file_imports_torchattacks() -> None:
    assert [path.name for path in FILES if "torchattacks" in packages(path)] == ["attacks.py"]


@pytest.mark.parametrize("name", NO_TORCH)
def test_planning_files_load_no_torch(name: str) -> None:
    loaded = imported(ROOT / f"{name}.py", when_loaded=True)
    own = {
        module.removeprefix("guard.").replace(".", "/") for module in loaded if "guard." in module
    }
    assert not {module.split(".")[0] for module in loaded} & {"torch", "torchvision", "numpy"}
    files = {module for module in own if (ROOT / f"{module}.py").is_file()}
    assert files <= set(NO_TORCH)


@pytest.mark.parametrize("name", ["attacks", "regularizers", "augment", "models", "training"])
def test_work_on_tensors_knows_no_stages(name: str) -> None:
    stages = {"guard.artifacts", "guard.pipeline", "guard.stages", "guard.methods"}
    assert not imported(ROOT / f"{name}.py") & stages
