"""What a base method is: a section of the configuration that knows its facts and plans its stages.

A new method is a folder beside this file (its section and its stages in `__init__.py`, which
imports no torch; their work in other files) and a field of `guard.trial.TrialConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from guard.config.common import ModelConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.schema import Config
from guard.config.shared import Shared
from guard.data.spec import ImageSpec
from guard.errors import ConfigError
from guard.stage import Stage
from guard.stages import Part, Trained


class Method(Config):
    """Base of the methods' sections. Its fields are the hyper-parameters, its class variables facts
    that the rest of the project asks for."""

    stages: ClassVar[tuple[type[Stage], ...]] = ()
    """Kinds of stages that are its own."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Further sections of TrialConfig that not every method reads, and this one does."""
    teacher_labels: ClassVar[bool] = False
    """Whether its teachers label the student's batches where student.labels = auto."""
    takes_regularizer: ClassVar[bool] = True
    """Whether a penalty has a place in it: in every one that trains on real images."""
    distils: ClassVar[bool] = True
    """Whether there is a small set, of `ipc` images a class, that the student is trained on."""
    takes_ipc: ClassVar[bool] = True
    """Whether the trial says how many images per class there are, and not the method."""
    needs_batchnorm: ClassVar[bool] = False
    """Whether its teacher must have BatchNorm layers."""

    @property
    def title(self) -> str:
        """What it is of, beside its name; "" for nothing."""
        return ""

    @property
    def identity(self) -> dict[str, Any]:
        """What of its fields decides what a trial is."""
        return self.to_dict()

    @property
    def network(self) -> ModelConfig | None:
        """The network that it distils with; None: the trial's model."""
        return None

    @property
    def learns_labels(self) -> bool:
        """Whether labels are distilled with the images."""
        return False

    @property
    def learns_rate(self) -> bool:
        """Whether a learning rate is distilled with the images."""
        return False

    @property
    def needs_real_images(self) -> bool:
        """Whether synthetic images start as real ones, so that IPC is bounded by the class size."""
        return False

    def images_per_class(self, ipc: int) -> int:
        """As many as the trial says, or as the method has it."""
        return ipc

    def held_at_once(self, ipc: int) -> int:
        """Images a class that one stage holds in memory."""
        return ipc

    def check_trial(self, shared: Shared) -> None:
        """Rules between its fields and the trial's. Raises ConfigError, its path from the trial."""

    def check_images(self, shared: Shared, spec: ImageSpec, smallest: int) -> None:
        """Rules between its fields, the trial's and the data set, whose smallest class has so many
        images for training. Raises ConfigError, its path from the trial."""
        if self.needs_real_images and shared.ipc > smallest:
            raise ConfigError(
                "ipc",
                f"{shared.method} starts from real images and the smallest class has {smallest} "
                f"for training, got {shared.ipc}",
            )

    def cautions(self, shared: Shared) -> Sequence[str]:
        """What is to be known before it runs in this trial, a line each; nothing is refused."""
        return ()

    def teachers(self, shared: Shared) -> Sequence[Trained]:
        """Networks that the set is distilled from, trained at the same time. May be none."""
        return ()

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        """Stages that make the images, at the same time where there are several. None: the student
        is trained on the real images."""
        return ()

    def network_of(self, shared: Shared) -> ModelConfig:
        """The network that the set is distilled with."""
        return self.network or shared.model


def check_divides(path: str, k: int, spec: ImageSpec) -> None:
    """Raises ConfigError where images are not k by k parts."""
    if spec.image_size % k:
        raise ConfigError(path, f"must divide images of {spec.image_size} px, got {k}")


def one_adversary(adversary: RegularizerConfig, shared: Shared, networks: str) -> None:
    """Raises ConfigError where the trial's regularizer would attack what an adversary of the
    method's own networks attacks already."""
    regularizer = shared.regularizer
    if adversary.active and regularizer.active and regularizer.attacks:
        raise ConfigError(
            "regularizer.kind",
            f"the {networks} of {shared.method} are adversarially trained already "
            f"({adversary.kind}); got {regularizer.kind}",
        )
