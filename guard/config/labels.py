"""Teachers of a set and of a student's labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from guard.config.common import NETWORKS, ModelConfig, NetworkName
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import OneOf, at_least
from guard.config.schema import LATER, Config
from guard.errors import ConfigError

OWN = "own"
TEACHERS = (
    OWN,
    *(
        name
        for name in RegularizerConfig.NAMED
        if not RegularizerConfig.named(name).facts.needs_teacher
    ),
)
MOST_KEPT = 20


def kept_epochs(epochs: int) -> tuple[int, ...]:
    """After which epochs of a training a network is kept: every one of at most 20, or 20 of them,
    evenly spaced, the last among them."""
    return tuple(sorted({-(-epochs * part // MOST_KEPT) for part in range(1, MOST_KEPT + 1)}))


@dataclass(frozen=True, kw_only=True)
class CommitteeConfig(Config):
    """Teachers, each trained as `squeeze` says: each regularizer with each network and each seed.
    Several are a committee: the mean of their logits."""

    teachers: tuple[Annotated[str, OneOf(TEACHERS)], ...] = (OWN,)
    """What each is trained with: own is the trial's regularizer, others are its settings by name
    (none, pgd-at, …)."""
    networks: tuple[Annotated[str, NetworkName((OWN, *NETWORKS))], ...] = (OWN,)
    """Of each of them: own is the trial's model, others its names, its other fields as they are."""
    seeds: Annotated[int, at_least(1)] = 1
    """How often each of them is trained, from seeds of their own."""

    def check(self) -> None:
        """No names, and doubled ones. Raises ConfigError."""
        _check_distinct("teachers", self.teachers)
        _check_distinct("networks", self.networks)

    def check_units(self, path: str, model: ModelConfig) -> None:
        """Raises ConfigError for a teacher, named at the path, whose penalty does not go with the
        trial's model."""
        for name in self.teachers:
            if name != OWN:
                named = f"{path} ({name})"
                RegularizerConfig.named(name).check_units(named, {model.input})


@dataclass(frozen=True, kw_only=True)
class LabelConfig(CommitteeConfig):
    """The teacher that labels a student's batches, where one does (student.labels = soft, fixed,
    budget)."""

    epoch: Annotated[int, at_least(1)] | None = None
    """The teacher as it is after so many epochs of its training, whose learning rate goes on as if
    it were not stopped (an early teacher's labels are softer); null: at its end. All trials that
    name an epoch share one training, which keeps 20 of them (`kept_epochs`)."""
    bn: Literal["eval", "batch"] = "eval"
    """The teacher's BatchNorm: running statistics, or those of the batch that it labels."""
    parts: Annotated[int, at_least(1, at_most=1000)] = field(default=1, metadata=LATER)
    """Stages that share the labels of all epochs (student.labels = soft), on several GPUs at a
    time. The labels are the same."""

    @property
    def is_plain(self) -> bool:
        """Whether the method's own teachers label, as they are in the end."""
        return self == LabelConfig(bn=self.bn, parts=self.parts)


def _check_distinct(field: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ConfigError(field, "must name at least one")
    if len(set(names)) < len(names):
        raise ConfigError(field, f"must be distinct, got {', '.join(names)}")
