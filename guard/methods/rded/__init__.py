"""RDED: hyper-parameters, facts and stages. Its work is in `mosaic.py`; what a network was unsure
of while it was trained, in `dynamics.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import above, at_least
from guard.config.schema import Config
from guard.config.shared import Shared
from guard.config.training import TrainConfig
from guard.data.spec import ImageSpec
from guard.errors import ConfigError
from guard.methods.method import Method, check_divides
from guard.stage import Sizes, Stage
from guard.stages import PLAIN_STEP, Part, Squeeze, Trained, Whitening, mended_batches

ATTACKED = "attack on a folded teacher"
"""What `mended` names."""
ATTACK_STEP_PASSES = 2
"""Of an image: forward, and its own gradient."""


@dataclass(frozen=True, kw_only=True)
class Dynamics(Stage):
    """What a teacher thinks of every training image after each of some epochs: the same training
    again, as far as the last of them, in one process, so that nobody else pays for it."""

    name, version, work = "dynamics", 1, "guard.methods.rded.dynamics:record"
    whitening: Whitening | None
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    regularizer: RegularizerConfig
    eps: float
    seed: int
    last: int
    """The training ends with this epoch, from 1."""
    epochs: int
    """How many are recorded, the last one included."""
    compute: ComputeConfig

    @classmethod
    def of(cls, teacher: Squeeze, last: int, epochs: int) -> Dynamics:
        return cls(
            whitening=teacher.whitening,
            data=teacher.data,
            model=teacher.model,
            train=teacher.train,
            regularizer=teacher.regularizer,
            eps=teacher.eps,
            seed=teacher.seed,
            last=last,
            epochs=epochs,
            compute=teacher.compute,
        )

    @property
    def mended(self) -> tuple[str, ...]:
        return mended_batches(self.train, self.whitening)

    def passes(self, sizes: Sizes) -> float:
        training = self.last * (PLAIN_STEP + self.regularizer.passes)
        return sizes.train * (training + self.epochs)


@dataclass(frozen=True, kw_only=True)
class Mosaic(Part):
    """Crops of real images that a teacher has chosen, several to an image."""

    name, version, work = "mosaic", 1, "guard.methods.rded.mosaic:compose"
    teacher: Trained
    dynamics: Dynamics | None
    """None: candidates are drawn."""
    data: DataConfig
    crops: Crops
    eps: float
    """Radius of the attack that crops are scored under; 0 without."""
    ipc: int
    seed: int
    compute: ComputeConfig

    @property
    def mended(self) -> tuple[str, ...]:
        return (ATTACKED,) if self.crops.attack_steps else ()

    @classmethod
    def of(cls, shared: Shared, teacher: Squeeze, crops: Crops, ipc: int) -> Mosaic:
        recorded = None
        if crops.budget is not None:
            recorded = Dynamics.of(teacher, crops.budget, crops.epochs_recorded)
        return cls(
            teacher=teacher,
            dynamics=recorded,
            data=shared.data,
            crops=crops,
            eps=shared.eps if crops.attack_steps else 0.0,
            ipc=ipc,
            seed=shared.seed,
            compute=shared.compute,
        )

    def passes(self, sizes: Sizes) -> float:
        images = min(self.crops.pool(self.ipc) * sizes.num_classes, sizes.train)
        return images * self.crops.crops * (1 + ATTACK_STEP_PASSES * self.crops.attack_steps)


@dataclass(frozen=True, kw_only=True)
class Crops(Config):
    """Which crops of which real images are chosen, and how many of them an image is made of."""

    candidates: Annotated[int, at_least(1)] = 300
    """Images a class of which crops are tried; as many as are needed, where that is more, and all
    of a smaller class."""
    crops: Annotated[int, at_least(1)] = 5
    """Square crops that are tried of each; the easiest is kept."""
    crop_scale: Annotated[float, above(0, at_most=1)] = 0.08
    """Smallest share of the area that a crop has."""
    tiles: Annotated[int, at_least(1)] = 1
    """k: an image is k by k crops. Published: 1 at 32 and 64 px, 2 at 224 px."""
    score: Literal["loss", "margin"] = "loss"
    """What makes a crop hard for the teacher: its cross-entropy, or the negative margin f_y −
    max_{k≠y} f_k of its logits, which also tells sure predictions apart."""
    attack_steps: Annotated[int, at_least(0)] = 0
    """Score each crop under an attack of so many steps of eps/4, in pixels, at the threat model's
    radius; 0: as it is (published)."""
    pick: Literal["easiest", "medium"] = "easiest"
    """Of the crops of drawn candidates: those of the lowest score (published), or those around the
    median, which SRe2L++ starts from."""
    budget: Annotated[int, at_least(1)] | None = None
    """K: candidates are no longer drawn, but those that the teacher was least sure of around epoch
    K of its training, of whose difficulty a student of that budget can make something (CA2D). Its
    constants are not public: K and the two spans are ours to choose. None: drawn (published)."""
    deviation_epochs: Annotated[int, at_least(2)] = 5
    """J: consecutive epochs over which the true class's probability is watched."""
    mean_epochs: Annotated[int, at_least(1)] = 5
    """W: such deviations, the last one ending with epoch K, that are averaged."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rded": {},
        "rded-224": {"tiles": 2},
        "medium": {"pick": "medium"},
    }

    def pool(self, ipc: int) -> int:
        """Candidates of a class for so many images."""
        return max(self.candidates, ipc * self.tiles**2)

    @property
    def epochs_recorded(self) -> int:
        return self.deviation_epochs + self.mean_epochs - 1

    def check(self) -> None:
        """A budget that ends before it can be measured. Raises ConfigError."""
        if self.budget is not None and self.budget < self.epochs_recorded:
            raise ConfigError(
                "budget",
                f"must be at least deviation_epochs + mean_epochs - 1 = {self.epochs_recorded}, "
                f"got {self.budget}",
            )

    def check_crops(self, path: str, ipc: int, spec: ImageSpec, smallest: int) -> None:
        """Images that do not divide, and more crops than there are images. Raises ConfigError.
        path: of these fields."""
        check_divides(f"{path}.tiles", self.tiles, spec)
        needed = ipc * self.tiles**2
        if needed > smallest:
            raise ConfigError(
                "ipc",
                f"{path}.tiles = {self.tiles} takes a crop of each of {needed} images of a class, "
                f"and the smallest class has {smallest} for training, got {ipc}",
            )

    def check_training(self, train: TrainConfig) -> None:
        """A budget beyond the teacher's training. Raises ConfigError."""
        if self.budget is not None and self.budget > train.epochs:
            raise ConfigError(
                "budget", f"must be at most squeeze.epochs = {train.epochs}, got {self.budget}"
            )


@dataclass(frozen=True, kw_only=True)
class RDED(Crops, Method):
    """RDED (arXiv 2312.03526): the crops of real images that a teacher finds easiest, tiled and
    labelled by it; nothing is optimised. The regularizer acts in the teacher, which chooses and
    labels."""

    stages: ClassVar = (Mosaic, Dynamics)
    reads: ClassVar = ("squeeze",)
    teacher_labels: ClassVar = True

    @property
    def needs_real_images(self) -> bool:
        return True

    def check_trial(self, shared: Shared) -> None:
        """Raises ConfigError."""
        try:
            self.check_training(shared.squeeze)
        except ConfigError as error:
            raise error.under(shared.method) from None

    def check_images(self, shared: Shared, spec: ImageSpec, smallest: int) -> None:
        """Raises ConfigError."""
        self.check_crops(shared.method, shared.ipc, spec, smallest)

    def teachers(self, shared: Shared) -> Sequence[Trained]:
        return [Squeeze.of(shared)]

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        return [Mosaic.of(shared, Squeeze.of(shared), self, shared.ipc)]
