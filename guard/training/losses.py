"""The loss of a network that a set is distilled from: plain, with a penalty, or adversarial.

x: (B, C, H, W) in pixels; y: (B,), or distributions (B, K) of a student's labels. Attacks stay in
the L_inf ball and in [0, 1], and run in evaluation mode with frozen parameters, so they leave no
trace in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.config import RegularizerConfig
from guard.config.regularizers import risen
from guard.group import ALONE, Group
from guard.models.modes import constant_statistics
from guard.models.networks import frozen
from guard.models.synchronized import normalised_as
from guard.training.penalties import Regularizer

PlainLoss = Callable[[Tensor], Tensor]
"""Of a batch's logits (B, K), a scalar."""
EVERY_ROW = slice(None)


@dataclass(frozen=True)
class TrainingLoss:
    """Call it inside a training step. The model's mode, running statistics and parameters' `.grad`
    are as a plain training step leaves them."""

    regularizer: RegularizerConfig
    eps: float = 0.0
    """Radius of the threat model in pixels."""
    adversary: RegularizerConfig = field(default_factory=lambda: RegularizerConfig.named("none"))
    """Adversarial training under the penalty (MAT)."""
    transformed: bool = False
    """Whether `of` is called inside `torch.func.vmap`."""
    pieces: int = 1
    """Of a batch, in which a penalty is computed one after another."""
    group: Group = ALONE
    """Who computes it together: each gets the whole batch and gives the summand of its share."""

    @property
    def attack(self) -> RegularizerConfig | None:
        """What images are attacked by, if they are."""
        both = (self.adversary, self.regularizer)
        return next((config for config in both if config.active and config.attacks), None)

    @property
    def radius(self) -> float:
        """Of the attack, in pixels."""
        config = self.attack
        return self.eps if config is None or config.eps is None else config.eps

    @property
    def penalty(self) -> Regularizer:
        return Regularizer(self.regularizer, self.eps, self.transformed, self.pieces, self.group)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        epoch: int,
        generator: torch.Generator,
        plain_loss: PlainLoss | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(loss of the batch, logits that its training accuracy is judged by (B, K)); in a group
        the share's summand of the one, and its rows of the other.

        plain_loss: what is minimised of logits; None: the cross-entropy of y.
        """
        attacked = self.attacked(model, x, y, generator)
        return self.of(model, x, attacked, y, epoch, generator, plain_loss)

    def attacked(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        """The adversarial versions of the share's images of x (B, C, H, W), None where nothing
        attacks."""
        config = self.attack
        if config is None:
            return None
        assert not config.keeps, "perturbations are kept by `guard.training.line_search`"
        rows = self.group.share(len(x)).rows
        return attack_batch(model, x, y, config, self.radius, generator, rows)

    def of(
        self,
        model: nn.Module,
        x: Tensor,
        attacked: Tensor | None,
        y: Tensor,
        epoch: int,
        generator: torch.Generator,
        plain_loss: PlainLoss | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(loss, a scalar; logits (B, K)) when the attack is done already: `attacked` (B, C, H, W)
        is the share of x moved by it, or None."""
        config, plain = self.attack, None
        penalty, share = self.penalty, self.group.share(len(x))
        own = y[share.rows]
        of_logits = plain_loss or partial(F.cross_entropy, target=own)
        with normalised_as(model, share):
            if config is None or attacked is None:
                plain = penalty.plain_pass(model, x[share.rows])
                loss, logits = of_logits(plain.logits), plain.logits
            else:
                weight = config.weight * risen(epoch, config.weight_warmup_epochs)
                adversarial = ADVERSARIAL_LOSSES[config.kind]
                rows = x[share.rows]
                loss, logits = adversarial(model, rows, attacked, own, weight, of_logits)
        loss = share.weight * loss
        if penalty.active:
            loss = loss + penalty(model, x, y, epoch, generator, plain)
        return loss, logits


def attack_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: RegularizerConfig,
    eps: float,
    generator: torch.Generator,
    rows: slice = EVERY_ROW,
) -> Tensor:
    """Signed gradient ascent in the ball from a uniform start. Ascends the cross-entropy, for
    TRADES the divergence from the prediction on x. An x outside [0, 1] (augmented) keeps its range.
    Of the batch only those rows are attacked, and returned; all starts are drawn.
    """
    noise = (2 * torch.rand(x.shape, generator=generator).to(x) - 1)[rows]
    x, y = x[rows], y[rows]
    low, high = x.clamp(max=0), x.clamp(min=1)
    moved = torch.clamp(x + eps * noise, low, high)
    with frozen(model), constant_statistics(model):
        clean = model(x).detach() if config.kind == "trades" else None
        for _ in range(config.steps):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(gains(model(moved), y, clean).sum(), moved)
            stepped = moved.detach() + config.step_size * eps * gradient.sign()
            moved = torch.clamp(torch.clamp(stepped, x - eps, x + eps), low, high)
    return moved.detach()


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """z_y − max_{k≠y} z_k of each sample, (B,): negative where it is wrong."""
    own = torch.arange(logits.shape[1], device=y.device) == y[:, None]
    others = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return logits.gather(1, y[:, None]).squeeze(1) - others


def gains(logits: Tensor, y: Tensor, clean: Tensor | None) -> Tensor:
    """What an attack ascends, of each sample, (B,): the cross-entropy, or the divergence from clean
    logits (B, K)."""
    if clean is None:
        return F.cross_entropy(logits, y, reduction="none")
    return divergences(clean, logits)


def divergences(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(softmax(clean) ‖ softmax(attacked)) of each sample, (B,), from logits."""
    log_p, log_q = clean.log_softmax(dim=1), attacked.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def adversarial(
    model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float, of_logits: PlainLoss
) -> tuple[Tensor, Tensor]:
    """The plain loss of attacked images (arXiv 1706.06083; one step: arXiv 2001.03994)."""
    logits = model(attacked)
    return of_logits(logits), logits


def trades(
    model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float, of_logits: PlainLoss
) -> tuple[Tensor, Tensor]:
    """The plain loss of f(x) + λ·KL(f(x) ‖ f(x')) (arXiv 1901.08573)."""
    logits = model(x)
    penalty = divergences(logits, model(attacked)).mean()
    return of_logits(logits) + weight * penalty, logits


def mart(
    model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float, of_logits: PlainLoss
) -> tuple[Tensor, Tensor]:
    """Boosted loss of attacked images + λ·KL(f(x) ‖ f(x'))·(1 − p_y(x)), from Wang et al.,
    "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", ICLR 2020. The
    class of a distribution is its largest one."""
    logits, moved = model(x), model(attacked)
    y = y if y.ndim == 1 else y.argmax(dim=1)
    own = torch.arange(logits.shape[1], device=y.device) == y[:, None]
    runner_up = moved.softmax(dim=1).masked_fill(own, 0).amax(dim=1)
    boosted = of_logits(moved) - torch.log1p(-runner_up.clamp(max=1 - 1e-6)).mean()
    doubt = 1 - logits.softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    return boosted + weight * (divergences(logits, moved) * doubt).mean(), logits


def rslad(
    model: nn.Module, x: Tensor, attacked: Tensor, y: Tensor, weight: float, of_logits: PlainLoss
) -> tuple[Tensor, Tensor]:
    """(1−λ)·D(f(x)) + λ·D(f(x')), D the distance from a teacher's answer to x (arXiv
    2108.07969)."""
    logits = model(x)
    return (1 - weight) * of_logits(logits) + weight * of_logits(model(attacked)), logits


AdversarialLoss = Callable[
    [nn.Module, Tensor, Tensor, Tensor, float, PlainLoss], tuple[Tensor, Tensor]
]
"""(model, x, attacked x, y, λ, plain loss) -> (loss, logits)."""

ADVERSARIAL_LOSSES: dict[str, AdversarialLoss] = {
    "adversarial": adversarial,
    "trades": trades,
    "mart": mart,
    "rslad": rslad,
}
