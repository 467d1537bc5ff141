"""The settings that MTT and TESLA publish, by data set and images per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

DataName = Literal["", "cifar10", "cifar100", "tiny-imagenet", "imagenet-subset", "imagenet"]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What changes from data set to data set and from IPC to IPC; see the fields of `MTT`."""

    student_steps: int
    expert_epochs: int
    max_start: int
    lr_images: float
    lr_rate: float
    rate: float
    batch_size: int | None
    zca: bool

    @property
    def epochs_needed(self) -> int:
        """Epochs that an expert must have for the latest trajectory."""
        return self.max_start - 1 + self.expert_epochs


Published = Mapping[str, Mapping[int, Walk]]
"""Data set -> IPC -> walk."""

COLUMNS = tuple(Walk.__annotations__)


def table(*rows: tuple[Any, ...]) -> Published:
    """Rows of a data set, an IPC and the fields of a walk."""
    found: dict[str, dict[int, Walk]] = {}
    for data, ipc, *values in rows:
        fields = dict(zip(COLUMNS, values, strict=True))
        found.setdefault(data, {})[ipc] = Walk(**fields)
    return found


MTT_WALKS = table(
    ("cifar10", 1, 50, 2, 2, 1e2, 1e-7, 0.01, None, True),
    ("cifar10", 10, 30, 2, 20, 1e2, 1e-5, 0.001, None, True),
    ("cifar10", 50, 30, 2, 40, 1e3, 1e-5, 0.001, None, False),
    ("cifar100", 1, 20, 3, 20, 1e3, 1e-5, 0.01, None, True),
    ("cifar100", 10, 20, 2, 20, 1e3, 1e-5, 0.01, None, False),
    ("cifar100", 50, 80, 2, 40, 1e3, 1e-5, 0.01, 125, True),
    ("tiny-imagenet", 1, 10, 2, 10, 1e4, 1e-4, 0.01, None, False),
    ("tiny-imagenet", 10, 20, 2, 40, 1e4, 1e-4, 0.01, 200, False),
    ("tiny-imagenet", 50, 20, 2, 40, 1e4, 1e-4, 0.01, 300, False),
    ("imagenet-subset", 1, 20, 2, 10, 1e5, 1e-6, 0.01, None, False),
    ("imagenet-subset", 10, 20, 2, 10, 1e5, 1e-6, 0.01, 20, False),
)
"""github.com/GeorgeCazenavette/mtt-distillation, issue 7. The subsets of ImageNet have ten classes
at 128 px and a ConvNet of depth 5; their lr_images is the author's (issue 1), where the README has
1e3."""

TESLA_WALKS = table(
    ("cifar10", 1, 50, 2, 5, 1e3, 1e-7, 0.01, None, False),
    ("cifar100", 50, 80, 2, 40, 1e3, 1e-5, 0.01, 125, True),
    ("imagenet", 1, 10, 3, 10, 1e4, 1e-4, 0.01, 100, False),
)
"""github.com/justincui03/tesla, README; ImageNet at 64 px with a ConvNet of depth 4."""


def at(walks: Published, data: str, ipc: int) -> Walk:
    """The walk of the largest listed IPC that is not above `ipc`; if all are, of the smallest."""
    listed = walks[data]
    return listed[max((known for known in listed if known <= ipc), default=min(listed))]


def settings(walks: Published) -> dict[str, dict[str, Any]]:
    """Each walk as a named setting, data-ipc."""
    return {
        f"{data}-{ipc}": asdict(walk)
        for data, by_ipc in walks.items()
        for ipc, walk in by_ipc.items()
    }
