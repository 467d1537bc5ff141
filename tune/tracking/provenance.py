"""With which code a study was made."""

from __future__ import annotations

from importlib.metadata import version

from tune.commit import lab_commit

PACKAGES = ("torch", "torchvision", "torchattacks", "ray", "optuna", "mlflow", "numpy")


def version_tags() -> dict[str, str]:
    """Tags of a run: the packages' versions and the lab's commit."""
    return {**{f"version.{name}": version(name) for name in PACKAGES}, "guard.commit": lab_commit()}
