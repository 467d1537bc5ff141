"""What a stage holds of a machine while it is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from guard.errors import StudyError
from tune.packing import SMALLEST

EVERY_STAGE, PACKED = "all", "auto"
COORDINATOR_CPUS = 0.001
"""What a trial holds that only waits for its stages; zero is refused."""


@dataclass(frozen=True)
class Resources:
    """What one stage holds while it is computed."""

    cpus: float = 1.0
    gpus: float = 0.0
    """May be a fraction: Ray puts as many stages on a GPU as fit."""

    def fits(self, nodes: Iterable[tuple[float, float]]) -> bool:
        """Whether one of the nodes, (CPUs, GPUs), has as much."""
        return any(cpus >= self.cpus and gpus >= self.gpus for cpus, gpus in nodes)


@dataclass(frozen=True)
class StageResources:
    """Resources by stage name, with a default for the rest."""

    default: Resources = Resources()
    named: Mapping[str, Resources] = field(default_factory=dict)
    packs: bool = False
    """Whether stages that are not named share a GPU as far as its memory goes (`tune.packing`)."""

    def of(self, stage: str) -> Resources:
        return self.named.get(stage, self.default)

    @property
    def smallest_gpus(self) -> float:
        """What a stage that is not named may hold of a GPU at least."""
        return min(self.default.gpus, SMALLEST) if self.packs else self.default.gpus

    @property
    def largest(self) -> Resources:
        every = [self.default, *self.named.values()]
        return Resources(max(r.cpus for r in every), max(r.gpus for r in every))

    def lacking(self, names: Iterable[str], nodes: Iterable[tuple[float, float]]) -> str:
        """What no node, (CPUs, GPUs), has enough of for one of the stages; "" if all fit."""
        nodes = list(nodes)
        for name in sorted(names):
            wanted = self.of(name)
            if not wanted.fits(nodes):
                return f"{name} waits for {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs of one node"
        return ""

    def check(self, nodes: Iterable[tuple[float, float]]) -> None:
        """Raises StudyError unless one of the nodes, (CPUs, GPUs), holds the largest stage."""
        wanted, nodes = self.largest, list(nodes)
        if not wanted.fits(nodes):
            most = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes)
            raise StudyError(
                f"--resources: a stage wants {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs; "
                f"there are nodes with {most}"
            )
