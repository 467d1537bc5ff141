"""Every study by name: the modules of `studies` that have a STUDY or a STORY."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

import studies
from studies.design.study import Story


def names() -> list[str]:
    """Of the commands: modules of the package, without its subpackages."""
    return [module.name for module in pkgutil.iter_modules(studies.__path__) if not module.ispkg]


def story(name: str) -> Story | None:
    """The story of the study of that name; None for any other text."""
    if name not in names():
        return None
    module = importlib.import_module(f"studies.{name}")
    found = getattr(module, "STUDY", None) or getattr(module, "STORY", None)
    return found if isinstance(found, Story) and found.name == name else None


def stories() -> Mapping[str, Story]:
    """Every study's story by name."""
    found = {name: story(name) for name in names()}
    return {name: known for name, known in found.items() if known is not None}
