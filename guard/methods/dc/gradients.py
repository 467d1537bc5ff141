"""Gradients of each class's loss in a network's parameters, and their distances.

k classes at once; Gradients: one tensor (k, *shape) for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from guard.seeding import generator
from guard.training.losses import TrainingLoss

Gradients = list[Tensor]
COSINE_EPS = 1e-6
"""What DC adds to the product of the norms."""


@dataclass(frozen=True)
class ClassGradients:
    """Gradients of mean losses over the images of one class, for every class of a group."""

    loss: TrainingLoss
    """Of the real images: where a regularizer acts (reading A of GUARD's Algorithm 1)."""
    classes_at_once: int
    """1: class by class. More: as one computation, vectorised over the classes."""

    def of_real(
        self, model: nn.Module, x: Tensor, labels: Tensor, epoch: int, seed: int
    ) -> Gradients:
        """Detached gradients of the loss on images x (k, B, C, H, W) of the classes (k,). Attacks
        draw for each class by the seed; a penalty draws once, the same for all."""
        y = labels[:, None].expand(x.shape[:2])
        moved = x
        if self.loss.attack is not None:
            moved = torch.stack(
                [self.attacked(model, *rows, seed) for rows in zip(x, y, strict=True)]
            )
        inner = replace(self.loss, transformed=self.classes_at_once > 1)

        def loss(model: nn.Module, x: Tensor, moved: Tensor, y: Tensor) -> Tensor:
            value, _ = inner.of(model, x, moved, y, epoch, generator(seed, "penalty"))
            return value

        return self._gradients(model, loss, (x, moved, y), create_graph=False)

    def attacked(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """The adversarial versions of the images x (B, C, H, W) of one class, y (B,)."""
        moved = self.loss.attacked(model, x, y, generator(seed, "attack", int(y[0])))
        assert moved is not None
        return moved

    def of_synthetic(self, model: nn.Module, x: Tensor, labels: Tensor) -> Gradients:
        """Gradients of the cross-entropy on images x (k, ipc, C, H, W), differentiable in x."""

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y)

        y = labels[:, None].expand(x.shape[:2])
        return self._gradients(model, loss, (x, y), create_graph=True)

    def _gradients(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        batches: tuple[Tensor, ...],
        *,
        create_graph: bool,
    ) -> Gradients:
        names = [name for name, _ in model.named_parameters()]
        if self.classes_at_once == 1:
            rows = [
                torch.autograd.grad(
                    loss(model, *batch), list(model.parameters()), create_graph=create_graph
                )
                for batch in zip(*batches, strict=True)
            ]
            return [torch.stack(column) for column in zip(*rows, strict=True)]
        whole = _Loss(model, loss)
        parameters = {f"model.{n}": p.detach() for n, p in model.named_parameters()}

        def of_class(parameters: dict[str, Tensor], *batch: Tensor) -> Tensor:
            value: Tensor = functional_call(whole, parameters, batch)
            return value

        by_class = vmap(grad(of_class), in_dims=(None,) + (0,) * len(batches), randomness="same")
        found = by_class(parameters, *batches)
        return [found[f"model.{name}"] for name in names]


class _Loss(nn.Module):
    """A loss of a model as one module, so that `functional_call` reaches the model's parameters
    wherever the loss uses them."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(self.model, *batch)


def distance(kind: str, ours: Gradients, target: Gradients) -> Tensor:
    """Distance of the gradients of each class, (k,).

    layerwise: Σ 1 − cos of each output unit's row, over tensors with two or more dimensions (DC,
    Eq. 10). cosine: 1 − cos of all parameters as one vector. squared: ‖difference‖².
    """
    if kind == "layerwise":
        weights = [(a, b) for a, b in zip(ours, target, strict=True) if a.ndim > 2]
        return torch.stack(
            [(1 - cosine(a.flatten(2), b.flatten(2))).sum(dim=1) for a, b in weights]
        ).sum(dim=0)
    a = torch.cat([tensor.flatten(1) for tensor in ours], dim=1)
    b = torch.cat([tensor.flatten(1) for tensor in target], dim=1)
    return 1 - cosine(a, b) if kind == "cosine" else (a - b).square().sum(dim=1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Over the last dimension of (…, n), with COSINE_EPS added to the norms' product: (…,)."""
    similarity: Tensor = (a * b).sum(dim=-1) / (a.norm(dim=-1) * b.norm(dim=-1) + COSINE_EPS)
    return similarity


def relative_change(changed: Gradients, plain: Gradients) -> float:
    """‖changed − plain‖ / ‖plain‖, all parameters and classes as one vector."""
    pairs = list(zip(changed, plain, strict=True))
    change = sum(float((a - b).square().sum()) for a, b in pairs)
    return float((change / max(sum(float(b.square().sum()) for _, b in pairs), 1e-30)) ** 0.5)
