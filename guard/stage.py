"""A stage: a frozen dataclass that says everything its result depends on, and where its work is.

Fields that are stages are its inputs, all others its configuration. Nothing here imports torch:
planning is cheap, and only the worker that does a stage's work loads it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

from guard.config.common import ComputeConfig
from guard.config.data import DataConfig
from guard.config.schema import Config, digest, field_names, later, type_hints


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many images a data set has: what the cost of a stage depends on."""

    train: int
    splits: Mapping[str, int]
    """Of validation and test."""
    num_classes: int


def mended_where(met: Mapping[str, bool]) -> tuple[str, ...]:
    """Of what has been put right, the names of what a configuration meets (`Stage.mended`)."""
    return tuple(name for name, meets in met.items() if meets)


class Stage:
    """Base of every stage. Subclasses are frozen, keyword-only dataclasses."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever the same fields would give other results than before."""
    work: ClassVar[str]
    """"module:function", called as function(stage, store, folder): fills the folder and returns the
    summary (see `guard.artifacts.build`)."""
    compute: ComputeConfig

    @property
    def inputs(self) -> dict[str, Stage]:
        """Role -> the stage whose result this one reads. The role is the name of the field, in a
        tuple its singular and a number."""
        found: dict[str, Stage] = {}
        for name in input_fields(type(self)):
            value = getattr(self, name)
            if isinstance(value, tuple):
                found |= {f"{name.removesuffix('s')}-{n:04d}": s for n, s in enumerate(value)}
            elif value is not None:
                found[name] = value
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The other fields as plain values, without those of LATER at their default. Data with a
        known content is named by it, wherever it lies."""
        inputs, silent = input_fields(type(self)), later(type(self)).items()
        names = [name for name in field_names(type(self)) if name not in inputs]
        values = {name: getattr(self, name) for name in names}
        return {name: _plain(v) for name, v in values.items() if (name, v) not in silent}

    @property
    def mended(self) -> tuple[str, ...]:
        """What has been put right since `version`, as far as this configuration meets it: it has an
        address of its own, and those that do not meet it keep theirs. A new version ends it."""
        return ()

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the key is made of, as plain values."""
        addresses = {role: stage.address for role, stage in self.inputs.items()}
        return {
            "name": self.name,
            "version": [self.version, *self.mended] if self.mended else self.version,
            "config": self.config,
            "inputs": addresses,
        }

    @functools.cached_property
    def key(self) -> str:
        """32 hex digits, of the SHA-256 of the description."""
        return digest(list(self.description.values()))[:32]

    @property
    def address(self) -> str:
        """Where the store keeps the result: "<name>/<key>"."""
        return f"{self.name}/{self.key}"

    def passes(self, sizes: Sizes) -> float:
        """What the work costs, in forward passes of one image: an upper bound, roughly. 0 where
        networks have next to no part in it."""
        return 0.0


def _input_fields(kind: type) -> tuple[str, ...]:
    def is_input(hint: Any) -> bool:
        options = get_args(hint) or (hint,)
        return any(isinstance(option, type) and issubclass(option, Stage) for option in options)

    hints = type_hints(kind)
    return tuple(name for name in field_names(kind) if is_input(hints[name]))


input_fields: Callable[[type], tuple[str, ...]] = functools.cache(_input_fields)
"""Names of a class's fields that are stages, or tuples of them, or a stage or None; in order."""


def _plain(value: Any) -> Any:
    if isinstance(value, DataConfig) and value.sha256:
        value = replace(value, path="")
    return value.to_dict() if isinstance(value, Config) else value


def closure(*wanted: Stage) -> Iterator[Stage]:
    """Everything that the wanted stages need, themselves included: inputs first, each once."""
    seen: set[str] = set()

    def visit(stage: Stage) -> Iterator[Stage]:
        if stage.address not in seen:
            seen.add(stage.address)
            for needed in stage.inputs.values():
                yield from visit(needed)
            yield stage

    for stage in wanted:
        yield from visit(stage)


def waves(*wanted: Stage) -> list[list[Stage]]:
    """The closure in groups that can be computed at the same time, one group after another."""
    found: list[list[Stage]] = []
    levels: dict[str, int] = {}
    for stage in closure(*wanted):
        level = max((levels[needed.address] + 1 for needed in stage.inputs.values()), default=0)
        levels[stage.address] = level
        if level == len(found):
            found.append([])
        found[level].append(stage)
    return found
