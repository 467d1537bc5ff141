"""Regularizers by kind: what each one reads and costs, and its settings.

The mathematics is in `guard.training.penalties` and `guard.training.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from guard.config.rules import OneOf, above, at_least
from guard.config.schema import LATER, Config
from guard.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A row of KINDS."""

    reads: frozenset[str]
    """Fields of RegularizerConfig that it reads."""
    passes: Callable[[RegularizerConfig], float]
    """Passes of a training image beyond the 3 of a plain step: a forward pass is 1, an input
    gradient 1 more, a weight gradient 2 more."""
    attacks: bool = False
    """Whether the loss is of attacked images (`losses.ADVERSARIAL_LOSSES`); a penalty otherwise
    (`penalties.PENALTIES`)."""
    needs_teacher: bool = False
    """Whether it is a loss of a student near a teacher's logits (`student.regularizer`)."""

    @property
    def is_penalty(self) -> bool:
        return "weight" in self.reads and not self.attacks


PENALTY = frozenset(
    {"kind", "weight", "power", "units", "scale", "bn", "fraction", "weight_warmup_epochs"}
)
STEPPING = PENALTY | {"h", "direction", "h_warmup_epochs", "h_ramp"}
ATTACK = frozenset({"kind", "steps", "step_size", "eps", "ascent", "candidates", "growth"})
WEIGHTED = ATTACK | {"weight", "weight_warmup_epochs"}

CARRIED = ("crop", "flip")
"""Augmentations that a kept perturbation follows its image through."""


def attack_passes(own: RegularizerConfig) -> float:
    """Of an attacked image; of a line search at most, as of one whose loss has dropped."""
    return 2 + own.candidates if own.keeps else 2 * own.steps


KINDS: Mapping[str, Kind] = {
    "none": Kind(reads=frozenset({"kind"}), passes=lambda own: 0.0),
    "curvature": Kind(reads=STEPPING, passes=lambda own: 12 * own.fraction),
    "loss-difference": Kind(reads=STEPPING, passes=lambda own: 9 * own.fraction),
    "gradient-norm": Kind(reads=PENALTY, passes=lambda own: 6 * own.fraction),
    "adversarial": Kind(reads=ATTACK, passes=attack_passes, attacks=True),
    "trades": Kind(reads=WEIGHTED, passes=lambda own: attack_passes(own) + 3, attacks=True),
    "mart": Kind(reads=WEIGHTED, passes=lambda own: attack_passes(own) + 3, attacks=True),
    "rslad": Kind(
        reads=WEIGHTED,
        passes=lambda own: attack_passes(own) + 3,
        attacks=True,
        needs_teacher=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(Config):
    """How the model that a set is distilled from is made robust: a penalty, or attacked images.

    curvature: λ·mean‖∇ℓ(x+hz) − ∇ℓ(x)‖^power, GUARD Eq. 15 at power 2 (arXiv 2403.10045).
    loss-difference: λ·mean|ℓ(x+hz) − ℓ(x)|^power, what GUARD's ImageNet-type code computes.
    gradient-norm: λ·mean‖∇ℓ(x)‖^power.
    adversarial: the loss of attacked images only (arXiv 1706.06083); λ is not used.
    trades: λ·KL(f(x) ‖ f(x')) at attacked images x' (arXiv 1901.08573).
    mart: misclassification-aware adversarial training (ICLR 2020, Wang et al.).
    rslad: (1−λ)·D(x) + λ·D(x'), D the student's distance from its teacher's answer to x (arXiv
    2108.07969, where D is the divergence at temperature 1); of students alone. The attack ascends
    that divergence, whatever D is.
    """

    kind: Annotated[str, OneOf(KINDS)] = "curvature"
    weight: Annotated[float, at_least(0)] = 0.1
    """λ. At 0 the model is trained without a penalty."""
    h: Annotated[float, above(0)] = 0.1
    """L2 length of the step along z, in `units`."""
    units: Literal["pixel", "normalized", "eps"] = "pixel"
    """pixel: L2 in [0, 1] pixels. normalized: L2 after the input normalisation, gradients too (the
    papers' codes). eps: h times eps·sqrt(D) of the threat model, in pixels."""
    power: Annotated[int, at_least(1, at_most=2)] = 2
    direction: Literal["gradient", "sign", "released"] = "gradient"
    """z: unit gradient, unit-L2 sign of the gradient (CURE), or GUARD's released code, which adds
    1e-7 to every element and to the norm."""
    scale: Literal["per-sample", "batch-mean"] = "per-sample"
    """batch-mean: gradients of the batch-mean loss, 1/B of a sample's (GUARD's released code)."""
    bn: Literal["eval", "frozen-batch", "train"] = "eval"
    """BatchNorm inside the penalty: running statistics, as GUARD's and CURE's codes have it, this
    batch's as constants, or those of each pass. But for the last, the penalty pulls at the scale
    and the mean of what a BatchNorm gets. No training loss resists that, and the running statistics
    lag behind, so the model can be worse in evaluation mode than it was in training."""
    fraction: Annotated[float, above(0, at_most=1)] = 1.0
    """Share of each batch, drawn afresh, that the penalty is computed on: unbiased and cheaper."""
    weight_warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs over which λ rises linearly to its value."""
    h_warmup_epochs: Annotated[int, at_least(0)] = 0
    """Epochs over which h rises linearly to its value."""
    h_ramp: tuple[Annotated[float, above(0)], ...] = field(default=(), metadata=LATER)
    """h of the first epochs, one after another; then it is `h`."""
    steps: Annotated[int, at_least(1)] = 7
    """Of the attack (adversarial, trades, mart, rslad): signed gradient ascent from a random
    start."""
    step_size: Annotated[float, above(0)] = 0.25
    """Of the attack, as a share of its radius."""
    eps: Annotated[float, above(0, at_most=1)] | None = None
    """L_inf radius of the attack, in pixels; None: that of the threat model."""
    ascent: Literal["pgd", "ls-pgd"] = field(default="pgd", metadata=LATER)
    """pgd: `steps` from a random start. ls-pgd: one line search from where the image's last attack
    ended, nothing where its loss has not dropped since (C²R, arXiv 2605.20606): in place of 7 steps
    less than half of the passes. It keeps a perturbation of each training image on the device, in
    float32, and follows it through crop and flip; other augmentations are refused."""
    candidates: Annotated[int, at_least(1, at_most=20)] = field(default=3, metadata=LATER)
    """Z of ls-pgd: lengths that are tried along the sign of the gradient, the first of which is
    `step_size`. The paper tries 2 or 3."""
    growth: Annotated[float, above(1)] = field(default=2.0, metadata=LATER)
    """β of ls-pgd: each length over the one before. The paper publishes neither β nor its first
    length α; these are ours: a quarter, a half and the whole of the radius."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "none": {"kind": "none", "weight": 0},
        **{name: {"kind": name} for name, kind in KINDS.items() if kind.is_penalty},
        "pgd-at": {"kind": "adversarial"},
        "fgsm-rs": {"kind": "adversarial", "steps": 1, "step_size": 1.25},
        "trades": {"kind": "trades", "weight": 6, "steps": 10},
        "mart": {"kind": "mart", "weight": 5, "steps": 10},
        "rslad": {"kind": "rslad", "weight": 5 / 6, "steps": 10},
        "guard-dc": {
            "kind": "loss-difference",
            "weight": 0.5,
            "power": 1,
            "scale": "batch-mean",
        },
        "paper-eq15": {"weight": 100, "h": 3, "units": "normalized"},
        "released-cifar": {
            "weight": 100,
            "h": 3,
            "units": "normalized",
            "power": 1,
            "direction": "released",
            "scale": "batch-mean",
        },
        "released-imagenet": {
            "kind": "loss-difference",
            "weight": 1e-4,
            "h": 3,
            "units": "normalized",
            "power": 1,
            "direction": "released",
            "scale": "batch-mean",
        },
        "cure": {
            "weight": 4,
            "h": 3,
            "units": "normalized",
            "power": 1,
            "direction": "sign",
            "h_ramp": (0.1, 0.4, 0.8, 1.8),
        },
    }

    def check(self) -> None:
        """Two ways for h to rise. Raises ConfigError."""
        if self.h_ramp and self.h_warmup_epochs:
            raise ConfigError(
                "h_ramp", f"needs h_warmup_epochs = 0, got h_warmup_epochs = {self.h_warmup_epochs}"
            )

    def h_at(self, epoch: int) -> float:
        """h of an epoch (from 0), in `units`."""
        if epoch < len(self.h_ramp):
            return self.h_ramp[epoch]
        return self.h * risen(epoch, self.h_warmup_epochs)

    @property
    def facts(self) -> Kind:
        """Of its kind."""
        return KINDS[self.kind]

    @property
    def active(self) -> bool:
        """Whether it changes the loss."""
        return self.kind != "none" and (self.weight > 0 or "weight" not in self.facts.reads)

    @property
    def title(self) -> str:
        """What tables call it: "none", the name of the setting that it is, or its kind."""
        if not self.active:
            return "none"
        return next((name for name, own in _named() if own == self), self.kind)

    @property
    def nearest(self) -> tuple[str, dict[str, Any]]:
        """The named setting of its kind that differs in the fewest of the fields that it reads, and
        its own values of these."""
        own = self.as_read()
        found = [
            (
                name,
                {f: getattr(self, f) for f in self.facts.reads if getattr(own, f) != getattr(n, f)},
            )
            for name, n in _named()
            if n.kind == own.kind
        ]
        return min(found, key=lambda pair: len(pair[1]))

    @property
    def attacks(self) -> bool:
        """Whether the loss is of attacked images; a penalty otherwise."""
        return self.facts.attacks

    @property
    def keeps(self) -> bool:
        """Whether it keeps a perturbation of each training image."""
        return self.active and self.attacks and self.ascent == "ls-pgd"

    def check_augment(self, path: str, augment: Sequence[str]) -> None:
        """Raises ConfigError for augmentations of a training loop, found at the path, that kept
        perturbations cannot be carried through."""
        others = [name for name in augment if name not in CARRIED]
        if self.keeps and others:
            raise ConfigError(
                path,
                f"ls-pgd keeps perturbations, which follow {' and '.join(CARRIED)} alone; got "
                f"{', '.join(others)} (or set ascent = pgd)",
            )

    def check_units(self, path: str, inputs: Collection[str]) -> None:
        """Raises ConfigError for steps in normalised units on a network whose input layer, of those
        it acts on, has no deviations. path: of its units, or of what names it."""
        if self.active and self.units == "normalized" and set(inputs) != {"normalize"}:
            raise ConfigError(path, "normalized needs model.input = normalize, got zca")

    def check_forgets(self, path: str, whom: str) -> None:
        """Raises ConfigError for perturbations that nothing could be made of; whom: what is
        attacked. path: of this section."""
        if self.keeps:
            raise ConfigError(
                f"{path}.ascent".removeprefix("."),
                f"{whom} do not come back to the same network as they were, so there is no last "
                "attack to go on from: must be pgd, got ls-pgd",
            )

    @property
    def passes(self) -> float:
        """Passes of a training image beyond the 3 of a plain step, on average over the batch."""
        return self.facts.passes(self) if self.active else 0.0

    @property
    def uses_threat_model(self) -> bool:
        return self.active and (self.eps is None if self.attacks else self.units == "eps")

    def as_read(self) -> RegularizerConfig:
        """With the fields that its kind reads, the others as they are by default; "none" where it
        changes nothing."""
        if not self.active:
            return RegularizerConfig.named("none")
        return RegularizerConfig(**{name: getattr(self, name) for name in self.facts.reads})

    def fields_used(self) -> frozenset[str]:
        """The fields that this kind reads."""
        return self.facts.reads


def risen(epoch: int, warmup_epochs: int) -> float:
    """Share of its value that something has in an epoch (from 0) when it rises linearly."""
    return min((epoch + 1) / warmup_epochs, 1.0) if warmup_epochs else 1.0


@cache
def _named() -> tuple[tuple[str, RegularizerConfig], ...]:
    return tuple((name, RegularizerConfig.named(name)) for name in RegularizerConfig.NAMED)
