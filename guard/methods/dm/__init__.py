"""DM, IDM, NCFM, ROME and C²R: hyper-parameters, facts and stages. Their work is in `matching.py`,
the networks that they match on in `networks.py`, what is minimised in `losses.py`, old embeddings
in `negatives.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import above, at_least
from guard.config.schema import LATER, Config
from guard.config.shared import Shared
from guard.config.training import DSA_OPS, DsaOp
from guard.data.spec import ImageSpec
from guard.errors import ConfigError
from guard.methods.method import Method, check_divides, one_adversary
from guard.stage import Sizes, mended_where
from guard.stages import PLAIN_STEP, Part, Trained, Whitening

Distance = Literal["squared", "absolute", "characteristic"]


GATHERED = "order of a contrast's sums"
ANCHORS, PASSES = "anchors of a contrast", "whole passes from the hardest"
"""What `mended` names."""


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(Part):
    """A whole set, optimised by matching mean features."""

    name, version, work = "distribution-matching", 1, "guard.methods.dm.matching:match"
    whitening: Whitening | None
    data: DataConfig
    model: ModelConfig
    matching: DM
    regularizer: RegularizerConfig
    eps: float
    ipc: int
    seed: int
    compute: ComputeConfig

    @property
    def mended(self) -> tuple[str, ...]:
        own = self.matching
        return mended_where(
            {
                GATHERED: own.negatives is not None,
                ANCHORS: own.contrast_weight > 0,
                PASSES: own.hardest_first,
            }
        )

    @property
    def partition(self) -> int:
        return self.matching.partition

    def passes(self, sizes: Sizes) -> float:
        """Of real and synthetic images, attacked where they are, and of the networks' training."""
        own = self.matching
        attack = own.adversary.passes
        ranked = attack + 1 if own.hardest_first else 0
        synthetic = self.ipc * own.partition**2 * (PLAIN_STEP + attack * (own.contrast_weight > 0))
        step = sizes.num_classes * (own.batch_size * (1 + attack + ranked) + synthetic)
        if own.networks is not None:
            trained = own.networks.trained_at_once * own.networks.steps * own.networks.batch_size
            step += trained * (PLAIN_STEP + attack + self.regularizer.passes)
        return own.iterations * step


@dataclass(frozen=True, kw_only=True)
class NetworksConfig(Config):
    """Networks that are trained on the real images while they are matched on (IDM): a queue, which
    a fresh one joins from time to time."""

    initial: Annotated[int, at_least(1)] = 3
    """In the queue at the beginning, not trained yet."""
    every: Annotated[int, at_least(1)] = 30
    """Iterations after which another one joins."""
    most: Annotated[int, at_least(1)] = 100
    """Then the oldest leaves."""
    trained_at_once: Annotated[int, at_least(1)] = 2
    """Drawn for training in each iteration."""
    steps: Annotated[int, at_least(1)] = 10
    """Of each of them."""
    batch_size: Annotated[int, at_least(1)] = 256
    lr: Annotated[float, above(0)] = 0.01
    """SGD, momentum 0.9, weight decay 5e-4."""


@dataclass(frozen=True, kw_only=True)
class NegativesConfig(Config):
    """Which images of other classes a contrast tells an image from: the nearest ones to it, among
    those of the step and older ones. C²R (arXiv 2605.20606) has such a queue and such a search, and
    publishes no constant of them: these are ours."""

    queue: Annotated[int, at_least(0)] = 256
    """Q: last embeddings of a class that are kept, clean and attacked ones, the oldest leaves
    first; of whatever networks they are. 0: none, the step's own are searched alone."""
    hardest: Annotated[int, at_least(1)] = 32
    """k: nearest embeddings of other classes that an image is told from."""
    dimensions: Annotated[int, at_least(1)] = 64
    """r: of the random projection, drawn for each step, in which they are searched. The loss is of
    whole embeddings."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {"hardest": {}}


@dataclass(frozen=True, kw_only=True)
class DM(Method):
    """DM (arXiv 2110.04181): images whose mean features, class by class, are those of real ones, on
    fresh networks that are never trained. Nothing is differentiated twice.

    What the others add is off here. All classes take one step together, on one network.
    """

    stages: ClassVar = (DistributionMatching,)
    takes_regularizer: ClassVar = False
    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cifar10-50": {"lr_images": 10.0}}
    """What is published of other data sets and IPC than CIFAR-10 at 10, where it differs."""

    model: ModelConfig | None = None
    """The networks that features are matched on; None: the trial's model."""
    iterations: Annotated[int, at_least(1)] = 20_000
    batch_size: Annotated[int, at_least(1)] = 256
    """Real images a class and step; a smaller class gives all it has."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Of the images; adamw without weight decay."""
    lr_images: Annotated[float, above(0)] = 1.0
    """In units of the network's input layer."""
    momentum: Annotated[float, at_least(0, at_most=1)] = 0.5
    """SGD only."""
    init: Literal["noise", "real"] = "real"
    augment: tuple[DsaOp, ...] = DSA_OPS
    """Siamese operations: one a step and class, the same for real and synthetic images."""
    distance: Distance = "squared"
    """Of mean features: ‖difference‖² (DM), (½‖difference‖₁)² (ROME), or that of the characteristic
    functions of unit features at random frequencies, which tells whole distributions apart (NCFM).
    """
    frequencies: Annotated[int, at_least(1)] = 4096
    """Drawn for each step from N(0, I); characteristic only."""
    partition: Annotated[int, at_least(1)] = 1
    """k: each image is k by k smaller ones, which are enlarged to its size wherever they are used
    (IDM: 2)."""
    networks: NetworksConfig | None = None
    """None: a fresh one for each step."""
    label_weight: Annotated[float, at_least(0)] = 0.0
    """Of the synthetic images' cross-entropy times the network's accuracy on its training images,
    a share in [0, 1], beside a distance of weight 1."""
    adversary: RegularizerConfig = field(default_factory=lambda: RegularizerConfig.named("none"))
    """Real images are matched, and networks trained on them, as attacked by this: in pixels, on the
    network that is matched on."""
    hardest_first: bool = False
    """Batches of real images by max(0, 1 − margin) of their attacked versions, the hardest first,
    ranked anew by every network that begins a pass over the class; else they are drawn."""
    contrast_weight: Annotated[float, at_least(0)] = 0.0
    """Of the supervised contrast of synthetic images with one another and all attacked versions,
    beside a distance of weight 1."""
    contrast_temperature: Annotated[float, above(0)] = 0.5
    """τ of the contrast. Nobody publishes C²R's: this one is ours."""
    negatives: NegativesConfig | None = field(default=None, metadata=LATER)
    """What the contrast tells images from; None: from all of other classes in the step."""

    @property
    def network(self) -> ModelConfig | None:
        return self.model

    @property
    def needs_real_images(self) -> bool:
        return self.init == "real"

    def check(self) -> None:
        """What needs networks that are trained, or an attack. Raises ConfigError."""
        self.adversary.check_forgets("adversary", "batches for many networks")
        if self.adversary.kind != "none" and not self.adversary.attacks:
            raise ConfigError(
                "adversary.kind", f"must attack images, or be none; got {self.adversary.kind}"
            )
        needs = {
            "adversary": self.adversary.active,
            "label_weight": self.label_weight > 0,
            "hardest_first": self.hardest_first,
        }
        for name, needed in needs.items():
            if needed and self.networks is None:
                raise ConfigError(name, "needs networks that are trained, got networks = None")
        if self.contrast_weight and not self.adversary.active:
            raise ConfigError("contrast_weight", "needs an adversary, got adversary = none")
        if self.negatives is not None and not self.contrast_weight:
            raise ConfigError("negatives", "are of a contrast, got contrast_weight = 0")

    def check_trial(self, shared: Shared) -> None:
        """A regularizer of networks that are never trained, or two attacks at once. Raises
        ConfigError."""
        shared.regularizer.check_forgets("regularizer", f"the batches of {shared.method}")
        if self.takes_regularizer and shared.regularizer.active:
            if self.networks is None:
                raise ConfigError(
                    f"{shared.method}.networks",
                    f"{shared.regularizer.kind} needs networks that are trained, got None",
                )
            one_adversary(self.adversary, shared, "networks")

    def check_images(self, shared: Shared, spec: ImageSpec, smallest: int) -> None:
        """Raises ConfigError."""
        super().check_images(shared, spec, smallest)
        check_divides(f"{shared.method}.partition", self.partition, spec)

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        model = self.network_of(shared)
        own = shared if self.takes_regularizer else shared.unregularized()
        acting = own.acting_regularizer
        return [
            DistributionMatching(
                whitening=Whitening.of(shared, model),
                data=shared.data,
                model=model,
                matching=self,
                regularizer=acting,
                eps=shared.radius(acting, self.adversary),
                ipc=shared.ipc,
                seed=shared.seed,
                compute=shared.compute,
            )
        ]


OFTEN: Mapping[str, Any] = {"networks": {"every": 5}}
"""At IPC 1 a network joins every 5 iterations."""


@dataclass(frozen=True, kw_only=True)
class IDM(DM):
    """IDM (CVPR 2023, Zhao et al.): DM with several smaller images to each, on networks that are
    being trained, with a label term. The regularizer acts in their training. The weight of the term
    and the rate are ours."""

    takes_regularizer: ClassVar = True
    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cifar10-1": OFTEN}

    partition: Annotated[int, at_least(1)] = 2
    networks: NetworksConfig | None = field(default_factory=NetworksConfig)
    label_weight: Annotated[float, at_least(0)] = 0.5
    lr_images: Annotated[float, above(0)] = 0.2


def trained_meanwhile() -> NetworksConfig:
    """Twenty networks, where NCFM has as many that are trained before; these numbers are ours."""
    return NetworksConfig(initial=20, every=1000, most=20)


@dataclass(frozen=True, kw_only=True)
class NCFM(IDM):
    """NCFM (CVPR 2025): characteristic functions instead of mean features, at frequencies that are
    drawn, as its released settings have it (the paper learns which to look at). Its networks are
    trained before, to several stages; here they are trained meanwhile, so the first steps are on
    networks that know little. Its loss is 300 times this one, which AdamW does not see."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    distance: Distance = "characteristic"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr_images: Annotated[float, above(0)] = 0.01
    label_weight: Annotated[float, at_least(0)] = 0.0
    networks: NetworksConfig | None = field(default_factory=trained_meanwhile)


@dataclass(frozen=True, kw_only=True)
class ROME(IDM):
    """ROME (ICML 2025): IDM whose networks are trained on attacked images, and match the features
    of attacked images.

    Its code attacks towards the next class, clamps normalised values to [0, 1], takes the accuracy
    in percent and chooses by the attacked test set. Here PGD is untargeted, in pixels, at the
    threat model's radius, the accuracy is a share, and the last iterate is kept. Its α = 0.2 and w
    = 0.5 are a label weight of (1 − α)·w/α = 2, and its rate of 0.2 one of 0.04: on CIFAR-10 at IPC
    1 and 10 and on CIFAR-100 at IPC 1; elsewhere w = 0.1, a weight of 0.4.
    """

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10-1": {**OFTEN, "batch_size": 5000},
        "cifar10-50": {"label_weight": 0.4},
        "cifar100-1": {**OFTEN, "batch_size": 5000},
        "cifar100-10": {"label_weight": 0.4, "networks": {"steps": 50}},
        "cifar100-50": {"label_weight": 0.4, "networks": {"steps": 50}},
    }
    distance: Distance = "absolute"
    label_weight: Annotated[float, at_least(0)] = 2.0
    lr_images: Annotated[float, above(0)] = 0.04
    adversary: RegularizerConfig = field(
        default_factory=lambda: RegularizerConfig(kind="adversarial", steps=10)
    )


@dataclass(frozen=True, kw_only=True)
class C2R(ROME):
    """C²R (arXiv 2605.20606): ROME with the hardest batches first, and a contrast of clean and
    attacked images. Of its constants only η is public, 0.4 at IPC 1 and 10 and 0.6 at 50, of
    (1 − η)·ROME + η·contrast: with ROME's α that is a contrast weight of η/((1 − η)·α) = 10/3, or
    7.5, and a rate of 0.2·(1 − η)·α = 0.024.
    """

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cifar10-50": {"contrast_weight": 7.5, "label_weight": 0.4, "lr_images": 0.016}
    }
    hardest_first: bool = True
    contrast_weight: Annotated[float, at_least(0)] = 10 / 3
    lr_images: Annotated[float, above(0)] = 0.024
