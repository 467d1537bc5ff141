"""What a Python that finds this on its path does at its start: once `guard.device` is imported, its
"cuda" is the CPU. For machines of a cluster whose GPUs are only numbers."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = "guard.device"


def fake(module: ModuleType) -> None:
    import torch

    is_here, setup = module.is_here, module.setup

    def fake_setup(config: object) -> torch.device:
        setup(type(config)(device="cpu", num_threads=config.num_threads))
        return torch.device("cpu")

    module.is_here = lambda device: device == "cuda" or is_here(device)
    module.setup = fake_setup


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec and spec.loader
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            fake(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
