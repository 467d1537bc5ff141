"""DC and DSA: hyper-parameters, facts and stages. Their work is in `matching.py`, the gradients and
their distances in `gradients.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from guard.config.common import ComputeConfig, ModelConfig
from guard.config.data import DataConfig
from guard.config.regularizers import RegularizerConfig
from guard.config.rules import above, at_least
from guard.config.shared import Shared
from guard.config.training import DSA_OPS, DsaOp
from guard.methods.method import Method
from guard.stage import Sizes
from guard.stages import PLAIN_STEP, Part, Trained, Whitening, mended_passes

PUBLISHED_INNER_EPOCHS = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}
MATCHED_PASSES = 9
"""Of a synthetic image in a matching step: weight gradient, and its own gradient in the image."""


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Part):
    """A whole set, optimised by gradient matching."""

    name, version, work = "gradient-matching", 2, "guard.methods.dc.matching:match_gradients"
    whitening: Whitening | None
    data: DataConfig
    model: ModelConfig
    matching: DC
    regularizer: RegularizerConfig
    eps: float
    ipc: int
    seed: int
    compute: ComputeConfig

    @property
    def mended(self) -> tuple[str, ...]:
        return mended_passes(self.regularizer)

    def passes(self, sizes: Sizes) -> float:
        """Of the images, real and synthetic, and of the networks' own training."""
        outer, inner = self.matching.loops(self.ipc)
        real = self.matching.batch_size * (PLAIN_STEP + self.regularizer.passes)
        between = (outer - 1) * inner * self.ipc * PLAIN_STEP
        a_class = outer * (real + self.ipc * MATCHED_PASSES) + between
        return self.matching.iterations * sizes.num_classes * a_class


@dataclass(frozen=True, kw_only=True)
class DC(Method):
    """DC (arXiv 2006.05929): images whose gradients match those of real ones, class by class, on
    fresh networks. The regularizer acts in the real images' gradient that is matched."""

    stages: ClassVar = (GradientMatching,)

    model: ModelConfig | None = None
    """The networks that gradients are matched on; None: the trial's model."""
    iterations: Annotated[int, at_least(1)] = 1000
    """Fresh networks, one after another."""
    outer_loops: Annotated[int, at_least(1)] | None = None
    """Matching steps a network; None: as published for the IPC (1: 1, 10: 10, 50: 50)."""
    inner_epochs: Annotated[int, at_least(0)] | None = None
    """Epochs that the network trains on the set between two matching steps; None: as published
    (10: 50, 20: 25, 30: 20, 40: 15, 50: 10)."""
    batch_size: Annotated[int, at_least(1)] = 256
    """Real images a class and matching step: of all classes as many as the smallest has, where that
    is fewer."""
    inner_batch_size: Annotated[int, at_least(1)] = 256
    lr_images: Annotated[float, above(0)] = 0.1
    """SGD with `momentum`, in units of the network's input layer."""
    momentum: Annotated[float, at_least(0, at_most=1)] = 0.5
    lr_network: Annotated[float, above(0)] = 0.01
    """SGD of the inner training, without momentum and weight decay."""
    init: Literal["noise", "real"] = "noise"
    distance: Literal["layerwise", "cosine", "squared"] = "layerwise"
    """layerwise: 1 − cosine of each output unit's gradient, summed (DC). cosine: of all gradients
    as one vector. squared: ‖difference‖²."""
    augment: tuple[DsaOp, ...] = ()
    """Siamese operations: one a matching step and class, the same for real and synthetic images."""
    classes_at_once: Annotated[int, at_least(1)] | None = None
    """Classes whose gradients are computed together, which changes rounding only; 1 is a plain
    loop; None: 1 on a CPU, up to 20 elsewhere."""

    @property
    def network(self) -> ModelConfig | None:
        return self.model

    @property
    def needs_real_images(self) -> bool:
        return self.init == "real"

    def loops(self, ipc: int) -> tuple[int, int]:
        """Matching steps a network and inner epochs between them. For an IPC that DC's code does
        not list: as many steps as images a class, and about 500 passes over the set in all."""
        outer = ipc if self.outer_loops is None else self.outer_loops
        published = PUBLISHED_INNER_EPOCHS.get(ipc, min(max(round(500 / ipc), 1), 50))
        return outer, published if self.inner_epochs is None else self.inner_epochs

    def check_trial(self, shared: Shared) -> None:
        """Perturbations that would be of another network each time. Raises ConfigError."""
        shared.regularizer.check_forgets("regularizer", f"the batches of {shared.method}")

    def cautions(self, shared: Shared) -> Sequence[str]:
        """Networks that gradients are known not to be matched well on."""
        model = self.network_of(shared)
        if not model.name.startswith("resnet"):
            return ()
        return [
            f"{shared.method} on {model.name}: gradients match well on ConvNets, and badly on "
            "ResNets (16 % on CIFAR-10 at IPC 1, github.com/VICO-UoE/DatasetCondensation/issues/8);"
            f" {shared.method}.model may be a convnet whatever the student is"
        ]

    def parts(self, shared: Shared, teachers: Sequence[Trained]) -> Sequence[Part]:
        model = self.network_of(shared)
        return [
            GradientMatching(
                whitening=Whitening.of(shared, model),
                data=shared.data,
                model=model,
                matching=self,
                regularizer=shared.acting_regularizer,
                eps=shared.radius(shared.regularizer),
                ipc=shared.ipc,
                seed=shared.seed,
                compute=shared.compute,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class DSA(DC):
    """DC with siamese augmentation and real images to start from (DSA, arXiv 2102.08259)."""

    init: Literal["noise", "real"] = "real"
    augment: tuple[DsaOp, ...] = DSA_OPS
