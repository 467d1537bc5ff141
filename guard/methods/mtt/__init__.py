"""MTT, TESLA, MAT and DATM: hyper-parameters, facts and stages. Their work is in `matching.py`, the
gradient of the matching loss in `trajectory.py`, labels that are learned in `labels.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.rules import above, at_least
from guard.config.schema import LATER
from guard.config.shared import Shared
from guard.config.training import DSA_OPS, DsaOp, TrainConfig
from guard.errors import ConfigError
from guard.methods.method import Method, one_adversary
from guard.methods.mtt.experts import Expert, ExpertConfig, adversarial_experts
from guard.methods.mtt.published import (
    COLUMNS,
    MTT_WALKS,
    TESLA_WALKS,
    DataName,
    Published,
    Walk,
    at,
    settings,
)
from guard.stage import Sizes
from guard.stages import Part, Trained, Whitening

STUDENT_STEP_PASSES = 12
"""Of a synthetic image in a student's step: the walk, and its gradient in image and parameters."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryMatching(Part):
    """A whole set and a learning rate, optimised by trajectory matching."""

    name, version = "trajectory-matching", 2
    work = "guard.methods.mtt.matching:match_trajectories"
    experts: tuple[Trained, ...]
    data: DataConfig
    matching: MTT
    ipc: int
    seed: int
    compute: ComputeConfig

    def passes(self, sizes: Sizes) -> float:
        walk = self.matching.walk(self.ipc)
        batch = walk.batch_size or self.ipc * sizes.num_classes
        steps = self.matching.iterations * walk.student_steps
        return steps * batch * STUDENT_STEP_PASSES


@dataclass(frozen=True, kw_only=True)
class MTT(Method):
    """MTT (arXiv 2203.11932): images on which a network walks as experts walked on the real ones.
    The regularizer acts in the training of the experts."""

    stages: ClassVar = (Expert, TrajectoryMatching)

    model: ModelConfig | None = None
    """The network of experts and students; None: the trial's model."""
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    iterations: Annotated[int, at_least(1)] = 5000
    student_steps: Annotated[int, at_least(1)] | None = 30
    """N, steps on the synthetic images."""
    expert_epochs: Annotated[int, at_least(1)] | None = 2
    """M, epochs of the expert that N steps should reach."""
    max_start: Annotated[int, at_least(1)] | None = 20
    """Trajectories start at an epoch of 0..max_start − 1."""
    batch_size: Annotated[int, at_least(1)] | None = None
    """Synthetic images a student step; None: as published says, all where nothing does."""
    lr_images: Annotated[float, above(0)] | None = 100.0
    """SGD with momentum 0.5, in units of the network's input layer."""
    lr_rate: Annotated[float, at_least(0)] | None = 1e-5
    """Of the student's learning rate α, itself learned."""
    rate: Annotated[float, above(0)] | None = 0.01
    """α at the start."""
    init: Literal["noise", "real"] = "real"
    augment: tuple[DsaOp, ...] = DSA_OPS
    gradient: Literal["unroll", "adjoint", "tesla"] = "adjoint"
    """unroll: through all student steps at once. adjoint: the same gradient with the graph of one
    step in memory. tesla: the approximation of arXiv 2211.10586, which drops dθ_i/dx."""
    published_half: bool = False
    """tesla as released: half of its gradient (a factor 2 is lost)."""
    soft_labels: bool = False
    """Labels are the target expert's probabilities for the current images (TESLA)."""
    lr_labels: Annotated[float, at_least(0)] = field(default=0.0, metadata=LATER)
    """SGD, momentum 0.9, of soft labels that are learned; 0: they are not (DATM)."""
    min_start: Annotated[int, at_least(0)] = field(default=0, metadata=LATER)
    """Trajectories start no earlier: the first epochs are the easiest (DATM)."""
    first_max_start: Annotated[int, at_least(1)] | None = field(default=None, metadata=LATER)
    """max_start in the first iteration; it grows evenly to its value, so that the window gets
    harder (DATM). None: it has its value."""
    growth_iterations: Annotated[int, at_least(1)] = field(default=1, metadata=LATER)
    """Iterations until max_start has its value."""
    image_ema: Annotated[float, at_least(0, at_most=0.99999)] = field(default=0.0, metadata=LATER)
    """a of s ← a·s + (1 − a)·images after each iteration; s is the set. 0: the images are."""
    start_known: bool = field(default=False, metadata=LATER)
    """Real images to start from are those that the first expert gets right, while there are any."""

    published: DataName = field(default="", metadata=LATER)
    """Data set in WALKS whose settings, at the trial's IPC, the fields that are null have (an IPC
    that is not listed: those of the next smaller one); empty: none is null."""
    zca: bool | None = field(default=False, metadata=LATER)
    """Whether its network whitens, whatever `model.input` says (MTT on CIFAR); null: as published
    says."""

    WALKS: ClassVar[Published] = MTT_WALKS
    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = settings(MTT_WALKS)
    """MTT's settings by data set and IPC."""

    @classmethod
    def as_published(cls, data: str) -> dict[str, Any]:
        """Values of its fields that have it be as published for a data set of WALKS, whatever the
        IPC."""
        return {**dict.fromkeys(COLUMNS), "published": data}

    def walk(self, ipc: int) -> Walk:
        """What its fields, and what is published, say at an IPC."""
        own = {name: getattr(self, name) for name in COLUMNS}
        if self.published:
            listed = asdict(at(self.WALKS, self.published, ipc))
            own = {name: listed[name] if own[name] is None else own[name] for name in COLUMNS}
        return Walk(**own)

    def network_of(self, shared: Shared) -> ModelConfig:
        """The network that the set is distilled with, whitening as the walk has it."""
        model = super().network_of(shared)
        return replace(model, input="zca") if self.walk(shared.ipc).zca else model

    @property
    def network(self) -> ModelConfig | None:
        return self.model

    @property
    def learns_labels(self) -> bool:
        return self.soft_labels or self.lr_labels > 0

    @property
    def learns_rate(self) -> bool:
        return True

    @property
    def needs_real_images(self) -> bool:
        return self.init == "real"

    def teachers(self, shared: Shared) -> Sequence[Trained]:
        model, experts = self.network_of(shared), self.experts
        return [
            Expert(
                whitening=Whitening.of(shared, model),
                data=shared.data,
                model=model,
                train=experts.train,
                ema=experts.ema,
                adversary=experts.adversary,
                regularizer=shared.acting_regularizer,
                eps=shared.radius(shared.regularizer, experts.adversary),
                number=number,
                seed=shared.seed,
                compute=shared.compute,
            )
            for number in range(experts.count)
        ]

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        walk = self.walk(shared.ipc)
        shortest = ExpertConfig(train=TrainConfig(epochs=walk.epochs_needed))
        matching = {**asdict(walk), "published": "", "zca": False, "experts": shortest}
        return [
            TrajectoryMatching(
                experts=tuple(teachers),
                data=shared.data,
                matching=replace(self, **matching),  # the inputs say which experts, whitened or not
                ipc=shared.ipc,
                seed=shared.seed,
                compute=shared.compute,
            )
        ]

    def check_trial(self, shared: Shared) -> None:
        """Two adversarial trainings at once, and what a regularizer keeps. Raises ConfigError."""
        path = f"{shared.method}.experts.train.augment"
        shared.regularizer.check_augment(path, self.experts.train.augment)
        one_adversary(self.experts.adversary, shared, "experts")

    def _check_length(self, walk: Walk) -> None:
        needed, epochs = walk.epochs_needed, self.experts.train.epochs
        if needed > epochs:
            raise ConfigError(
                "experts.train.epochs",
                f"a trajectory of {walk.expert_epochs} epochs that starts at epoch "
                f"{walk.max_start - 1} needs at least {needed}, got {epochs}",
            )

    def _check_alignment(self) -> None:
        if self.lr_labels and self.soft_labels:
            raise ConfigError("lr_labels", "needs soft_labels = false, got true")
        first = self.first_max_start
        for latest in (first, self.max_start):
            if latest is not None and latest <= self.min_start:
                raise ConfigError("min_start", f"must be below {latest}, got {self.min_start}")
        if first is not None and self.max_start is not None and first > self.max_start:
            raise ConfigError(
                "first_max_start", f"must be at most max_start = {self.max_start}, got {first}"
            )

    def max_start_at(self, iteration: int, walk: Walk) -> int:
        """max_start of an iteration (from 0)."""
        if self.first_max_start is None:
            return walk.max_start
        share = min(iteration / self.growth_iterations, 1.0)
        return self.first_max_start + int(share * (walk.max_start - self.first_max_start))

    def check(self) -> None:
        """Nothing published for a field that is null, and trajectories that are longer than the
        experts'. Raises ConfigError."""
        if self.published and self.published not in self.WALKS:
            raise ConfigError(
                "published", f"there is {', '.join(self.WALKS)}; got {self.published!r}"
            )
        for name in COLUMNS:
            if not self.published and getattr(self, name) is None and name != "batch_size":
                raise ConfigError(name, "null stands for what `published` says, which is empty")
        for ipc in self.WALKS[self.published] if self.published else (1,):
            self._check_length(self.walk(ipc))
        self._check_alignment()
        if self.published_half and self.gradient != "tesla":
            raise ConfigError(
                "published_half", f"is of gradient = tesla only, got gradient = {self.gradient}"
            )


@dataclass(frozen=True, kw_only=True)
class TESLA(MTT):
    """MTT with TESLA's gradient and soft labels (arXiv 2211.10586)."""

    gradient: Literal["unroll", "adjoint", "tesla"] = "tesla"
    soft_labels: bool = True
    iterations: Annotated[int, at_least(1)] = 10000

    WALKS: ClassVar[Published] = TESLA_WALKS
    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**walk, "published_half": True, "soft_labels": name.startswith("imagenet")}
        for name, walk in settings(TESLA_WALKS).items()
    }
    """TESLA's settings by data set and IPC: hard labels on CIFAR, and the released gradient, which
    its learning rates are for."""


@dataclass(frozen=True, kw_only=True)
class MAT(MTT):
    """MTT on adversarially trained, smoothed experts (arXiv 2503.12069). The paper's constants are
    not public: those of `adversarial_experts` are ours, the others MTT's."""

    experts: ExpertConfig = field(default_factory=adversarial_experts)

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}


@dataclass(frozen=True, kw_only=True)
class DATM(MTT):
    """DATM (arXiv 2310.05773): MTT on a window of the experts' epochs that gets harder, as late as
    the size of the set can take, with labels that are learned. Defaults are those of CIFAR-10 at
    IPC 10. Its experts are smoothed by FTD; here they are plain, or as `experts` says."""

    student_steps: Annotated[int, at_least(1)] | None = 80
    max_start: Annotated[int, at_least(1)] | None = 20
    first_max_start: Annotated[int, at_least(1)] | None = 10
    growth_iterations: Annotated[int, at_least(1)] = 1000
    lr_labels: Annotated[float, at_least(0)] = 2.0
    image_ema: Annotated[float, at_least(0, at_most=0.99999)] = 0.9995
    start_known: bool = True

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10-1": {
            "max_start": 4,
            "first_max_start": None,
            "lr_labels": 5,
            "image_ema": 0.995,
            "zca": True,
        },
        "cifar10-10": {"zca": True},
        "cifar10-50": {
            "max_start": 40,
            "first_max_start": 20,
            "growth_iterations": 2000,
            "lr_images": 1000,
            "image_ema": 0.995,
            "zca": True,
        },
    }
    """CIFAR-10's by IPC."""
