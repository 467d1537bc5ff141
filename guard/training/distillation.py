"""Losses of a student that learns a teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.config import StudentConfig

SMOOTHING = 0.1
"""Of the classes in GIFT's labels; ours, since theirs is not known here."""


def distillation_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """KL(softmax(target/T) ‖ softmax(logits/T)), mean over the batch; both (B, K) logits."""
    log_student = F.log_softmax(logits / temperature, dim=1)
    log_teacher = F.log_softmax(target / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def cosine_loss(logits: Tensor, target: Tensor, classes: Tensor, share: float) -> Tensor:
    """1 − cos(logits, w·s/‖s‖ + (1−w)·q/‖q‖), mean over the batch: q the probabilities of the
    teacher's logits `target`, s the smoothed `classes`, w `share`; all (B, K). GIFT's loss (arXiv
    2405.14736); it falls as the student turns towards its labels."""
    smooth = (1 - SMOOTHING) * classes + SMOOTHING / classes.shape[1]
    of_classes, of_teacher = F.normalize(smooth, dim=1), F.normalize(target.softmax(dim=1), dim=1)
    label = share * of_classes + (1 - share) * of_teacher
    return (1 - F.cosine_similarity(logits, label, dim=1)).mean()


@dataclass(frozen=True, kw_only=True)
class LabelLoss:
    """The loss that a student's config names, of a teacher's logits."""

    config: StudentConfig

    @property
    def reads_classes(self) -> bool:
        return self.config.loss == "cosine" or self.config.hard_share > 0

    def target(self, taught: Tensor, classes: Tensor) -> Tensor:
        """What the loss compares with: the teacher's logits (B, K), or with the classes as
        distributions (B, 2, K)."""
        return torch.stack([taught, classes], dim=1) if self.reads_classes else taught

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """A scalar, of logits (B, K) and a `target`."""
        config, share = self.config, self.config.hard_share
        taught, classes = (target[:, 0], target[:, 1]) if self.reads_classes else (target, target)
        if config.loss == "cosine":
            return cosine_loss(logits, taught, classes, share)
        if config.loss == "mse":
            loss = F.mse_loss(logits, taught)
        else:
            scale = config.temperature**2 if config.scale_by_t2 else 1.0
            loss = scale * distillation_loss(logits, taught, config.temperature)
        return loss + share * F.cross_entropy(logits, classes) if self.reads_classes else loss

    def distribution(self, target: Tensor) -> Tensor:
        """(B, K), what the teacher says, for a regularizer of the student."""
        return (target[:, 0] if self.reads_classes else target).softmax(dim=1)

    def mixable(self, logits: Tensor) -> Tensor:
        """A teacher's logits of single images, (N, K), as what is mixed like images are: the
        probabilities that kl compares, the logits of mse, and plain probabilities."""
        if self.config.loss == "mse":
            return logits
        return (logits / self._temperature).softmax(dim=1)

    def unmixed(self, mixed: Tensor) -> Tensor:
        """The logits (B, K) of what `mixable` gives, mixed or not."""
        if self.config.loss == "mse":
            return mixed
        return self._temperature * mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()

    @property
    def _temperature(self) -> float:
        return self.config.temperature if self.config.loss == "kl" else 1.0


@dataclass(frozen=True)
class OwnLoss:
    """The cross-entropy of a set's own labels, distributions (B, K)."""

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)

    def distribution(self, target: Tensor) -> Tensor:
        return target
