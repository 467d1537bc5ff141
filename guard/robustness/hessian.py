"""The loss around real samples: eigenvalues of the input Hessian, and GUARD's Proposition 1.

x: (B, C, H, W) in pixels; y: (B,). Everything is of a sample's own cross-entropy ℓ, with the model
in evaluation mode, so gradients and Hessians of different samples do not mix. D: pixels of a
sample. Lengths are L2, in pixels. GUARD: arXiv 2403.10045.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guard.models.networks import frozen
from guard.norms import unit
from guard.seeding import generator
from guard.training.penalties import sample_losses

Product = Callable[[Tensor], Tensor]
"""v (B, D) -> Hv (B, D), of each sample's own Hessian."""

BREAKDOWN = 1e-6
"""A Lanczos residual below this share of the largest eigenvalue so far is rounding."""
BISECTIONS = 80


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What the loss looks like at each sample."""

    loss: Tensor
    """ℓ(x), (B,)."""
    gradient: Tensor
    """∇ℓ(x), (B, D)."""
    eigenvalues: Tensor
    """The largest ones of the Hessian, descending, (B, k)."""
    eigenvectors: Tensor
    """Theirs, of unit length, (B, k, D)."""

    @property
    def gradient_norm(self) -> Tensor:
        """‖∇ℓ(x)‖, (B,)."""
        norm: Tensor = self.gradient.norm(dim=1)
        return norm

    @property
    def cosine(self) -> Tensor:
        """|cos| of the gradient and the first eigenvector, (B,): 0 where the gradient is 0."""
        return (unit(self.gradient) * self.eigenvectors[:, 0]).sum(dim=1).abs()


def geometry(
    model: nn.Module, x: Tensor, y: Tensor, count: int = 10, steps: int | None = None
) -> Geometry:
    """Loss, gradient and the `count` largest eigenvalues of the input Hessian at each sample.

    Exact Hessian-vector products and the Lanczos method with full reorthogonalisation; `steps`
    products (default: 2·count + 20, at most D, where the eigenvalues are exact). A ReLU network's
    input Hessian has rank K − 1 at most, so few steps find all that is not 0. Raises ValueError for
    a count above D.
    """
    dimension = x[0].numel()
    if not 1 <= count <= dimension:
        raise ValueError(f"count: must be at least 1 and at most {dimension}, got {count}")
    steps = min(dimension, max(count, steps or 2 * count + 20))
    loss, gradient, product = local_loss(model, x, y)
    start = torch.randn(dimension, generator=generator(0, "lanczos"))
    basis, diagonal, off_diagonal = lanczos(product, start.expand(len(x), -1).to(x), steps)
    tridiagonal = diagonal.diag_embed()
    tridiagonal = tridiagonal + off_diagonal.diag_embed(1) + off_diagonal.diag_embed(-1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    largest = values.flip(1)[:, :count].to(x)
    own = (vectors.flip(2)[:, :, :count].transpose(1, 2).to(x)) @ basis
    return Geometry(loss=loss, gradient=gradient, eigenvalues=largest, eigenvectors=own)


def local_loss(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Product]:
    """ℓ (B,), ∇ℓ (B, D) and the Hessian-vector product at x; all detached."""
    model.eval()
    shape = x.shape

    def gradient_at(x: Tensor) -> tuple[Tensor, Tensor]:
        losses = sample_losses(model(x), y)
        (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
        return losses, gradient

    def product(v: Tensor) -> Tensor:
        with frozen(model):
            point = x.detach().requires_grad_()
            _, gradient = gradient_at(point)
            (moved,) = torch.autograd.grad(
                gradient, point, v.view(shape).to(x), materialize_grads=True
            )
        return moved.detach().flatten(1)

    with frozen(model):
        losses, gradient = gradient_at(x.detach().requires_grad_())
    return losses.detach(), gradient.detach().flatten(1), product


def lanczos(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tridiagonal T = Q H Qᵀ of each sample: (Q (B, m, D), its diagonal (B, m) and off-diagonal
    (B, m − 1) in float64), m = steps.

    Where a Krylov space is exhausted it goes on in a new direction, with a coupling of 0. The
    gradient's ReLU kinks make H symmetric only almost everywhere, which is enough.
    """
    draws = generator(0, "lanczos", "restart")
    q = start / start.norm(dim=1, keepdim=True)
    rows, diagonal, off_diagonal = [q], [], []
    largest = torch.zeros(len(start), dtype=torch.float64, device=start.device)
    for number in range(steps):
        moved = product(rows[-1])
        alpha = (moved * rows[-1]).sum(dim=1)
        diagonal.append(alpha.double())
        if number == steps - 1:
            break
        basis = torch.stack(rows, dim=1)
        rest = orthogonal(moved, basis)
        beta = rest.norm(dim=1)
        largest = torch.maximum(largest, torch.maximum(alpha.double().abs(), beta.double()))
        exhausted = beta.double() <= BREAKDOWN * largest
        if bool(exhausted.any()):
            fresh = torch.randn(start.shape[1], generator=draws).to(start).expand_as(start)
            rest = torch.where(exhausted[:, None], orthogonal(fresh, basis), rest)
        rows.append(rest / rest.norm(dim=1, keepdim=True))
        off_diagonal.append(torch.where(exhausted, 0, beta).double())
    empty = start.new_zeros(len(start), 0, dtype=torch.float64)
    coupling = torch.stack(off_diagonal, dim=1) if off_diagonal else empty
    return torch.stack(rows, dim=1), torch.stack(diagonal, dim=1), coupling


def orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """Vectors (B, D) without their parts along the rows of basis (B, m, D); twice, for rounding."""
    for _ in range(2):
        along = basis @ vectors[:, :, None]
        vectors = vectors - (basis.transpose(1, 2) @ along).squeeze(2)
    return vectors


def quadratic_maximum(found: Geometry, radius: float) -> Tensor:
    """max over ‖v‖ ≤ radius of ℓ + ∇ℓᵀv + ½vᵀHv, (B,), with H taken to be 0 off the eigenvectors
    that were found: the adversarial loss ℓ̃ of Proposition 1, by its secular equation.

    The maximum is at v = (μ − H)⁻¹∇ℓ with the μ ≥ max(λ₁, 0) at which ‖v‖ is the radius (or inside,
    at μ = 0, where H is negative); where the gradient has no part along the first eigenvector, v
    has as much of that as fits.
    """
    g, values = found.gradient.double(), found.eigenvalues.double()
    along = (found.eigenvectors.double() @ g[:, :, None]).squeeze(2)
    rest = (g.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0).sqrt()
    parts = torch.cat([along, rest[:, None]], dim=1)
    curves = torch.cat([values, torch.zeros_like(rest)[:, None]], dim=1)
    low = curves.amax(dim=1).clamp(min=0)
    high = low + parts.norm(dim=1) / radius + 1e-12
    floor = low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        gap = (middle[:, None] - curves).clamp(min=1e-300)
        too_long = (parts / gap).norm(dim=1) > radius
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    gap = (high[:, None] - curves).clamp(min=1e-300)
    v = parts / gap
    left = (radius**2 - v.square().sum(dim=1)).clamp(min=0)
    gain = (parts * v).sum(dim=1) + 0.5 * (curves * v.square()).sum(dim=1) + 0.5 * floor * left
    worst: Tensor = found.loss + gain.to(found.loss)
    return worst


@dataclass(frozen=True, kw_only=True)
class BoundTerms:
    """One class's terms of Proposition 1, for perturbations up to a radius ρ:

    ℓ̃_adv(x') ≤ E ℓ(x) + ρ·E‖∇ℓ(x)‖ + ½ρ²·E λ₁(x) + Lσ, x real, x' distilled.
    """

    distilled_loss: float
    """The left side: the quadratic's maximum at x', mean over the class's distilled images."""
    loss: float
    gradient: float
    """ρ·E‖∇ℓ(x)‖."""
    curvature: float
    """½ρ²·E λ₁(x)."""
    distance: float
    """σ: how far the mean feature of the distilled images is from that of the real ones."""
    lipschitz: float
    """L: the largest slope of ℓ̃_adv between two real samples of the class in feature space. A lower
    estimate; the proposition needs an upper one."""

    @property
    def bound(self) -> float:
        """The right side."""
        return self.loss + self.gradient + self.curvature + self.lipschitz * self.distance

    @property
    def holds(self) -> bool:
        return self.distilled_loss <= self.bound


def proposition1(
    model: nn.Module,
    features: Callable[[Tensor], Tensor],
    real: tuple[Tensor, Tensor],
    distilled: tuple[Tensor, Tensor],
    radius: float,
    count: int = 10,
) -> Mapping[int, BoundTerms]:
    """Every term of GUARD's Proposition 1 by class, for the classes that both sets have.

    real, distilled: (images, labels). features: h, images (B, …) -> (B, F). ℓ must be convex for
    the proposition, which networks are not; what is measured says how far it holds anyway.
    """
    found: dict[int, BoundTerms] = {}
    x, y = real
    ours, own_y = distilled
    for label in sorted(set(y.tolist()) & set(own_y.tolist())):
        samples, images = x[y == label], ours[own_y == label].to(x)
        around = geometry(model, samples, y[y == label], count)
        at_images = geometry(model, images, own_y[own_y == label].to(y), count)
        h, h_images = features(samples).detach(), features(images).detach()
        worst = quadratic_maximum(around, radius)
        found[label] = BoundTerms(
            distilled_loss=float(quadratic_maximum(at_images, radius).mean()),
            loss=float(around.loss.mean()),
            gradient=radius * float(around.gradient_norm.mean()),
            curvature=0.5 * radius**2 * float(around.eigenvalues[:, 0].mean()),
            distance=float((h_images.mean(dim=0) - h.mean(dim=0)).norm()),
            lipschitz=steepest(worst, h),
        )
    return found


def steepest(values: Tensor, features: Tensor) -> float:
    """max |values_i − values_j| / ‖features_i − features_j‖ over pairs (n), (n, F); 0 for one."""
    distances = torch.cdist(features, features)
    differences = (values[:, None] - values[None, :]).abs()
    slopes = differences[distances > 0] / distances[distances > 0]
    return float(slopes.max()) if len(slopes) else 0.0
