"""With which code a study was made."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tune.commit import git, lab_commit

PACKAGES = ("torch", "torchvision", "torchattacks", "ray", "optuna", "mlflow", "numpy")


def package_versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def version_tags(command: str = "") -> dict[str, str]:
    """Tags of a run: the packages' versions, the lab's commit, and MLflow's own of the source.

    command: the module that is the study's command, such as studies.sweep.
    """
    commit = lab_commit()
    versions = {f"version.{name}": number for name, number in package_versions().items()}
    return {**versions, "guard.commit": commit, **source_tags(command, commit)}


def source_tags(command: str, commit: str, package: Path = Path(__file__).parent) -> dict[str, str]:
    """MLflow's, as far as they are known: without a repository, no commit."""
    found: Mapping[str, str] = {
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL" if command else "",
        "mlflow.source.git.commit": commit.removesuffix("+"),
        "mlflow.source.git.branch": git(package, "branch", "--show-current") if commit else "",
        "mlflow.source.git.dirty": str(commit.endswith("+")).lower() if commit else "",
    }
    return {name: value for name, value in found.items() if value}
