"""Attacks in pixel space: torchattacks, with its known faults kept out.

x: (B, C, H, W) in [0, 1]; y: (B,); a model returns logits. What each attack finds for a sample does
not depend on the batch that the sample is in, up to the rounding of batched arithmetic.

What differs from torchattacks' own attacks:

- AutoAttack has the standard budget (100 steps, not 10; Square's schedule of window sizes as it is,
  not stretched to 5,000 queries) and the number of classes.
- APGD-T in L2 steps each sample by its own step size, not by the first one's (`apgd`).
- Square in L2 counts the mass of a perturbation in each channel, and takes images of any side
  (`square`).
- DeepFool overshoots as a whole, beside each step.
- CW stops each sample on its own (`cw`); PGD in L2 divides each gradient by its own length, and PGD
  on the margin is not there at all (`pgd`).
- PGD, MIM, VMI and Jitter take steps of a quarter of the radius, whatever the radius. GUARD's
  evaluation has the same for PGD; its MIM steps the whole radius each time, and divides the
  gradient by the mean of the batch.
- Random numbers are each sample's own (`draws`); a perturbation that is not finite (0/0 at a
  vanishing gradient) is none; and nothing counts as adversarial that is outside the ball.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from guard.config.evaluation import AUTOATTACK_STEPS, SQUARE_QUERIES, TARGETS, Norm, steps_of
from guard.models.networks import frozen
from guard.robustness.attacks.apgd import TargetedAPGD
from guard.robustness.attacks.cw import CarliniWagner
from guard.robustness.attacks.draws import shared_draws
from guard.robustness.attacks.passes import Counted
from guard.robustness.attacks.pgd import ProjectedGradient
from guard.robustness.attacks.spsa import Spsa
from guard.robustness.attacks.square import Square
from guard.seeding import derive, fenced

__all__ = ["Attack", "CarliniWagner", "Counted", "ThreatModel", "attack_images", "build_attack"]

Attack = Callable[[Tensor, Tensor], Tensor]
"""(x, y) -> adversarial images of the same shape."""

MIM_STEPS, MIM_DECAY = 20, 1.0
JITTER_STEPS, VMI_STEPS = 20, 20
DEEPFOOL_STEPS, DEEPFOOL_OVERSHOOT = 50, 0.02
CW_C, CW_STEPS, CW_LR = 1e-4, 50, 0.01  # GUARD's evaluation code
FEWEST_CLASSES = 4
"""Of the targeted DLR loss: it divides by a difference of the first and fourth logits."""
TOLERANCE = 1e-5
"""Of a perturbation's length, relative to eps, beside one unit of float32 rounding in pixels."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """The ball of radius eps in pixels, and the number of classes."""

    eps: float
    num_classes: int
    norm: Norm = "Linf"

    def distances(self, x: Tensor, moved: Tensor) -> Tensor:
        """Length of each sample's perturbation in this norm, (B,)."""
        delta = (moved - x).flatten(1)
        return delta.abs().amax(dim=1) if self.norm == "Linf" else delta.norm(dim=1)

    def contains(self, distances: Tensor) -> Tensor:
        """Which lengths (B,) are within the ball."""
        return distances <= self.eps * (1 + TOLERANCE) + 2e-7


Build = Callable[[nn.Module, ThreatModel], Attack]


def pgd(model: nn.Module, threat: ThreatModel, steps: int) -> Attack:
    """From a random start, steps of eps/4 (GUARD's evaluation: 0.25/255 at 1/255)."""
    if threat.norm == "L2":
        return ProjectedGradient(model, "L2", threat.eps, steps, "cross-entropy")
    attack: Attack = torchattacks.PGD(model, eps=threat.eps, alpha=threat.eps / 4, steps=steps)
    return attack


def fgsm(model: nn.Module, threat: ThreatModel) -> Attack:
    attack: Attack = torchattacks.FGSM(model, eps=threat.eps)
    return attack


def mim(model: nn.Module, threat: ThreatModel) -> Attack:
    """Momentum iterative FGSM (arXiv 1710.06081), steps of eps/4; the gradient is normalised per
    sample."""
    attack: Attack = torchattacks.MIFGSM(
        model, eps=threat.eps, alpha=threat.eps / 4, steps=MIM_STEPS, decay=MIM_DECAY
    )
    return attack


def vmi(model: nn.Module, threat: ThreatModel) -> Attack:
    """Variance-tuned momentum iterative FGSM (arXiv 2103.15571), with torchattacks' five neighbours
    of a point (the paper: 20)."""
    attack: Attack = torchattacks.VMIFGSM(
        model, eps=threat.eps, alpha=threat.eps / 4, steps=VMI_STEPS
    )
    return attack


def jitter(model: nn.Module, threat: ThreatModel) -> Attack:
    """arXiv 2105.10304."""
    attack: Attack = torchattacks.Jitter(
        model, eps=threat.eps, alpha=threat.eps / 4, steps=JITTER_STEPS
    )
    return attack


def square(model: nn.Module, threat: ThreatModel, queries: int | None = None) -> Attack:
    """arXiv 1912.00049. The window shrinks as in AutoAttack, which asks 5,000 times and does not
    reach the smallest ones; with another number of queries the whole schedule is stretched to it.
    """
    asked = queries or SQUARE_QUERIES
    attack: Attack = Square(
        model,
        norm=threat.norm,
        eps=threat.eps,
        n_queries=asked,
        p_init=0.8,
        resc_schedule=asked != SQUARE_QUERIES,
        seed=0,
    )
    return attack


def spsa(model: nn.Module, threat: ThreatModel) -> Attack:
    return Spsa(model, threat.eps)


def targets(threat: ThreatModel) -> int:
    """How many wrong classes the targeted attacks aim at."""
    return min(threat.num_classes - 1, TARGETS)


def standard(threat: ThreatModel) -> dict[str, Any]:
    """What AutoAttack's parts with gradients have in common."""
    return {"norm": threat.norm, "eps": threat.eps, "seed": 0, "steps": AUTOATTACK_STEPS}


def apgd_ce(model: nn.Module, threat: ThreatModel) -> Attack:
    attack: Attack = torchattacks.APGD(model, **standard(threat), loss="ce")
    return attack


def apgd_t(model: nn.Module, threat: ThreatModel) -> Attack:
    """Does nothing with fewer than four classes, where its loss is not defined."""
    if threat.num_classes < FEWEST_CLASSES:
        return lambda x, y: x
    attack: Attack = TargetedAPGD(model, targets(threat), **standard(threat))
    return attack


def fab_t(model: nn.Module, threat: ThreatModel) -> Attack:
    """arXiv 1907.02044."""
    attack: Attack = torchattacks.FAB(
        model, **standard(threat), multi_targeted=True, n_classes=targets(threat) + 1
    )
    return attack


def deepfool(model: nn.Module, threat: ThreatModel) -> Attack:
    """arXiv 1511.04599. The whole perturbation overshoots, as in the paper: torchattacks lets each
    step overshoot by its own length, and the last ones are so short that rounding decides."""
    nearest = torchattacks.DeepFool(model, steps=DEEPFOOL_STEPS, overshoot=DEEPFOOL_OVERSHOOT)
    return lambda x, y: x + (1 + DEEPFOOL_OVERSHOOT) * (nearest(x, y) - x)


def cw(model: nn.Module, threat: ThreatModel) -> Attack:
    return CarliniWagner(model, CW_C, CW_STEPS, CW_LR)


BUILDS: Mapping[str, Build] = {
    "fgsm": fgsm,
    "mim": mim,
    "jitter": jitter,
    "vmi": vmi,
    "cw": cw,
    "deepfool": deepfool,
    "spsa": spsa,
    "apgd-ce": apgd_ce,
    "apgd-t": apgd_t,
    "fab-t": fab_t,
    "square": square,
}
"""The parts of AutoAttack are those of the standard version (arXiv 2003.01690): 100 steps, 9
targets or all other classes if there are fewer, 5,000 queries."""


def build_attack(name: str, model: nn.Module, threat: ThreatModel) -> Attack:
    """A single attack by its name in a config. model: in evaluation mode."""
    steps = steps_of(name)
    if steps is None:
        return BUILDS[name](model, threat)
    if steps.kind == "pgd":
        return pgd(model, threat, steps.count)
    if steps.kind == "square":
        return square(model, threat, steps.count)
    return ProjectedGradient(model, threat.norm, threat.eps, steps.count, "margin")


def attack_images(
    name: str, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int
) -> Tensor:
    """What the attack makes of x, (B, C, H, W) in [0, 1]; x itself where that is not finite.

    Each sample gets the random numbers that `seed` and the attack's name say, whatever its batch;
    torchattacks' own seeding cannot reach the caller's random state, and the model's parameters
    get no gradient.
    """
    if not len(x):
        return x
    own = derive(seed, "attack", name)
    with fenced(own), frozen(model), shared_draws(own):
        moved = build_attack(name, model, threat)(x, y).detach()
    finite = moved.isfinite().flatten(1).all(dim=1)
    return torch.where(finite[:, None, None, None], moved, x).clamp(0, 1)
