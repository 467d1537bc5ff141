"""Four classes of digits on which every base method runs, with settings as small as they can be.

The groups of methods are their own facts, so a method that is added belongs to them by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor

from guard.artifacts import ArtifactStore
from guard.config.schema import field_names
from guard.data.datasets import resolve
from guard.data.given import content_of
from guard.distilled import DistilledSet
from guard.methods.dc import DC
from guard.methods.dm import DM, IDM, ROME
from guard.methods.given import SetFacts
from guard.methods.method import Method
from guard.methods.mtt import DATM, MAT, MTT
from guard.methods.rded import RDED
from guard.methods.sre2l import SRe2L
from guard.pipeline import TrialResult, local_runner, run_trial
from guard.stage import Stage
from guard.trial import TrialConfig, methods
from guard.trial_stages import plan

CLASSES, IPC = 4, 2
SETTINGS: Mapping[type[Method], Mapping[str, Any]] = {
    SRe2L: {"iterations": 3, "chunk": 1, "jitter": 1},
    RDED: {"candidates": 6, "crops": 2, "budget": 3, "deviation_epochs": 2, "mean_epochs": 1},
    DM: {"iterations": 2, "batch_size": 8},
    IDM: {"networks.initial": 1, "networks.steps": 2, "networks.batch_size": 16},
    ROME: {"adversary.steps": 1},
    DC: {"iterations": 2, "inner_epochs": 1, "batch_size": 8},
    MTT: {
        "iterations": 2,
        "student_steps": 2,
        "expert_epochs": 1,
        "max_start": 2,
        "lr_images": 10.0,
        "lr_rate": 1e-3,
        "experts.count": 2,
        "experts.train.epochs": 3,
        "experts.train.lr": 0.3,
        "experts.train.batch_size": 32,
    },
    DATM: {"first_max_start": 1, "growth_iterations": 2, "image_ema": 0.5},
    MAT: {"experts.adversary.steps": 1, "experts.ema": 0.5},
}
"""Of a method and of those that are derived from it; of others only `iterations` is set."""


EVERYTHING: Mapping[type[Method], Mapping[str, Any]] = {SRe2L: {"bn_statistics": "class"}}
"""With which a method plans every stage of its own."""


def names(has: Callable[[type[Method]], Any]) -> tuple[str, ...]:
    return tuple(name for name, method in methods().items() if has(method))


def with_field(field: str) -> tuple[str, ...]:
    """Methods with that hyper-parameter."""
    return names(lambda method: field in field_names(method))


METHODS = names(lambda method: True)
DISTILS = names(lambda method: method.distils)
LABELLED = names(lambda method: method.teacher_labels)
LEARNS_RATE = names(lambda method: method().learns_rate)
REGULARIZED = names(lambda method: method.takes_regularizer)
UNLABELLED = tuple(name for name in DISTILS if name not in LABELLED)
OPTIMISES = with_field("lr_images")
"""Methods that optimise the images of real ones' gradients or trajectories."""


def settings_of(name: str) -> dict[str, Any]:
    method = methods()[name]
    found: dict[str, Any] = {"iterations": 2} if "iterations" in field_names(method) else {}
    for family, own in SETTINGS.items():
        found |= own if issubclass(method, family) else {}
    return {f"{name}.{path}": value for path, value in found.items()}


TINY: dict[str, Any] = {
    "data": {"name": "npz", "validation_fraction": 0.25},
    "model": {"name": "convnet", "width": 6, "depth": 2},
    "ipc": IPC,
    "regularizer": "none",
    "squeeze": {"epochs": 3, "optimizer": "adamw", "lr": 0.02, "batch_size": 16},
    "student.train": {"epochs": 2, "batch_size": 5, "lr": 0.02, "augment": ["flip"]},
    "evaluation": {"attacks": ["pgd1"], "max_samples": 20, "eps": 0.05, "diagnose": False},
    "compute.num_threads": 1,
}
for name in METHODS:
    TINY |= settings_of(name)
PENALTY = {"regularizer": {"kind": "gradient-norm", "weight": 0.5}}


def tiny(name: str, **changes: Any) -> TrialConfig:
    """A trial of the method; where its data lies is left open."""
    norm = {"model.norm": "batch"} if methods()[name].needs_batchnorm else {}
    return TrialConfig().override({**TINY, "method": name, **norm, **changes})


def starting(name: str, init: str) -> dict[str, str]:
    """What makes synthetic images start so, where there is a choice."""
    return {f"{name}.init": init} if name in with_field("init") else {}


CAN_START_REAL = [n for n in DISTILS if tiny(n, **starting(n, "real")).own.needs_real_images]


def subset(path: Path) -> Path:
    """Forty training and eight test digits of each of four classes."""
    digits = load_digits()
    rows = [np.flatnonzero(digits.target == label)[:48] for label in range(CLASSES)]
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    arrays = {}
    for part, chosen in (("train", slice(0, 40)), ("test", slice(40, 48))):
        indices = np.concatenate([row[chosen] for row in rows])
        arrays |= {f"x_{part}": x[indices], f"y_{part}": digits.target[indices]}
    np.savez(path, **arrays)
    return path


@dataclass
class Lab:
    """Trials by their config, each run once in a shared store."""

    data: Path
    store: ArtifactStore
    results: dict[str, TrialResult] = field(default_factory=dict)
    noise: dict[str, bool] = field(default_factory=dict)
    """Whether the global random state was another one after a trial."""

    def config(self, method: str, **changes: Any) -> TrialConfig:
        given = {"given": self.given} if method == "given" else {}
        config = tiny(method, **{"data.path": str(self.data), **given, **changes})
        return replace(config, data=resolve(config.data))

    @cached_property
    def given(self) -> dict[str, Any]:
        """A set of some of the real images, and what is known of it."""
        place = self.data.with_name("given.npz")
        with np.load(self.data) as real:
            x, y = real["x_train"], real["y_train"]
        rows = [np.flatnonzero(y == label)[:IPC] for label in range(CLASSES)]
        chosen = np.concatenate(rows)
        np.savez(place, images=x[chosen], labels=y[chosen])
        facts = SetFacts(path="set", place=str(place), sha256=content_of(place), ipc=IPC)
        return {"path": "set", "known": [facts.to_dict()]}

    def run(self, config: TrialConfig) -> TrialResult:
        name = config.fingerprint()
        if name not in self.results:
            before = random_states()
            self.results[name] = run_trial(config, local_runner(self.store))
            self.noise[name] = random_states() != before
        return self.results[name]

    def made(self, config: TrialConfig) -> DistilledSet:
        return DistilledSet.load(self.run(config).paths["distilled"])

    def built(self, stage: Stage) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(summary, tensors) of one stage whose inputs are there."""
        artifact = self.store.get_or_build(stage)
        tensors: dict[str, Tensor] = {}
        for file in artifact.path.glob("*.safetensors"):
            tensors |= load_file(file)
        return dict(artifact.summary), tensors


def random_states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state()[1]
    return (torch.get_rng_state().tolist(), np.asarray(numpy_state).tolist(), random.getstate())


def stages(config: TrialConfig, name: str) -> list[Stage]:
    return [stage for stage in plan(config) if stage.name == name]


def keys(config: TrialConfig, name: str | None = None) -> list[str]:
    return [stage.key for stage in plan(config) if name in (None, stage.name)]
