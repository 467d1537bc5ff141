"""Attack suites: torchattacks in pixel space, with its known faults kept out.

The only file that imports torchattacks. x: (B, C, H, W) in [0, 1]; y: (B,); a model returns logits.
Works with torchattacks 3.3 and 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchattacks
from torch import Tensor, nn

from guard.models import frozen
from guard.seeding import fenced

Attack = Callable[[Tensor, Tensor], Tensor]

MIM_STEPS, MIM_DECAY = 20, 1.0
SQUARE_QUERIES = 5000
AUTOATTACK_STEPS = 100  # of the standard suite; torchattacks' own AutoAttack runs 10
AUTOATTACK_TARGETS = 9
CW_C, CW_STEPS, CW_LR = 1e-4, 50, 0.01  # GUARD's evaluation code


@dataclass(frozen=True)
class ThreatModel:
    """L_inf ball of radius eps in pixels, and the number of classes."""

    eps: float
    num_classes: int


def _pgd(model: nn.Module, threat: ThreatModel, steps: int) -> Attack:
    """PGD with a random start and steps of eps/4 (GUARD's evaluation: 0.25/255 at 1/255)."""
    alpha = threat.eps / 4
    attack: Attack = torchattacks.PGD(model, eps=threat.eps, alpha=alpha, steps=steps)
    return attack


def _mim(model: nn.Module, threat: ThreatModel) -> Attack:
    """Momentum iterative FGSM; the gradient is normalised per sample."""
    alpha = threat.eps / 4
    attack: Attack = torchattacks.MIFGSM(
        model, eps=threat.eps, alpha=alpha, steps=MIM_STEPS, decay=MIM_DECAY
    )
    return attack


def _square(model: nn.Module, threat: ThreatModel) -> Attack:
    attack: Attack = torchattacks.Square(
        model, norm="Linf", eps=threat.eps, n_queries=SQUARE_QUERIES, p_init=0.8, seed=0
    )
    return attack


def _autoattack(model: nn.Module, threat: ThreatModel) -> list[Attack]:
    """The standard AutoAttack (arXiv 2003.01690): APGD-CE, APGD-T, FAB-T, 100 steps each, and
    Square with 5,000 queries; 9 targets, or all other classes if there are fewer.

    The targeted DLR loss divides by a difference of the first and fourth logits, so with fewer than
    four classes APGD-T is left out and FAB-T and Square stand in for it.
    """
    eps, classes = threat.eps, threat.num_classes
    common = {"norm": "Linf", "eps": eps, "seed": 0}
    targeted = {"n_classes": min(classes, AUTOATTACK_TARGETS + 1)}
    steps = AUTOATTACK_STEPS
    attacks: list[Attack] = [torchattacks.APGD(model, **common, steps=steps, loss="ce")]
    if classes >= 4:
        attacks.append(torchattacks.APGDT(model, **common, **targeted, steps=steps))
    fab = torchattacks.FAB(model, **common, **targeted, steps=steps, multi_targeted=True)
    return [*attacks, fab, _square(model, threat)]


class CarliniWagner:
    """The L2 attack of Carlini and Wagner (arXiv 1608.04644) at one c, every sample on its
    own: minimise ‖x' − x‖² + c·max(z_y − max_{k≠y} z_k, 0) over w, x' = (1 + tanh w)/2, by Adam.

    torchattacks' version stops the whole batch at once, masks logits by multiplying with 0, which
    is wrong where all others are negative, and cannot move pixels that are exactly 0 or 1.
    """

    MARGIN = 1e-6

    def __init__(self, model: nn.Module, c: float, steps: int, lr: float) -> None:
        self.model, self.c, self.steps, self.lr = model, c, steps, lr

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        squeezed = (2 * x - 1).clamp(-1 + self.MARGIN, 1 - self.MARGIN)
        w = torch.atanh(squeezed).detach().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=self.lr)
        best, best_distance = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            adversarial = (1 + torch.tanh(w)) / 2
            distance = (adversarial - x).square().flatten(1).sum(dim=1)
            logits = self.model(adversarial)
            others = logits.clone()
            others[rows, y] = -torch.inf
            margin = logits[rows, y] - others.amax(dim=1)
            closer = (margin.detach() <= 0) & (distance.detach() < best_distance)
            best = torch.where(closer[:, None, None, None], adversarial.detach(), best)
            best_distance = torch.where(closer, distance.detach(), best_distance)
            loss = (distance + self.c * margin.clamp(min=0)).sum()
            (w.grad,) = torch.autograd.grad(loss, w)
            optimizer.step()
        return best


def build_attacks(name: str, model: nn.Module, threat: ThreatModel) -> list[Attack]:
    """The attacks that a suite's name stands for; a sample survives if it survives all of them.

    model: in evaluation mode. Raises KeyError for an unknown name (`guard.config.is_attack`).
    """
    if name.startswith("pgd"):
        return [_pgd(model, threat, int(name.removeprefix("pgd")))]
    if name == "autoattack":
        return _autoattack(model, threat)
    if name == "cw":
        return [CarliniWagner(model, CW_C, CW_STEPS, CW_LR)]
    return [{"mim": _mim, "square": _square}[name](model, threat)]


def survivors(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Which samples the attack leaves rightly classified, bool (B,).

    The attack's own seeding cannot reach the caller's random state. A perturbation that is not
    finite (0/0 at a vanishing gradient) counts as no perturbation.
    """
    with fenced(seed, "attack"), frozen(model):
        adversarial = attack(x, y).detach()
    finite = adversarial.isfinite().flatten(1).all(dim=1)
    adversarial = torch.where(finite[:, None, None, None], adversarial, x)
    with torch.no_grad():
        survived: Tensor = model(adversarial).argmax(dim=1) == y
    return survived
