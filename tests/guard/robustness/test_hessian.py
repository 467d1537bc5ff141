from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.robustness.hessian import geometry, local_loss, proposition1, quadratic_maximum, steepest
from guard.seeding import fenced

CLASSES, DIMENSION = 4, 12


def smooth(scale: float = 1.0) -> nn.Module:
    with fenced(0):
        layers = [nn.Flatten(), nn.Linear(DIMENSION, 10), nn.Tanh(), nn.Linear(10, CLASSES)]
        model = nn.Sequential(*layers).double()
    with torch.no_grad():
        model[1].weight *= 3 * scale
    return model.eval()


def samples(count: int = 6) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    x = torch.rand(count, 3, 2, 2, generator=draws, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=draws)


def dense(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B, D, D), by torch's own functional Hessian, sample by sample."""

    def loss(flat: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(model(flat.view(1, 3, 2, 2)), label[None])

    rows = [
        torch.autograd.functional.hessian(lambda flat, i=i: loss(flat, y[i]), x[i].flatten())
        for i in range(len(x))
    ]
    return torch.stack(rows)


def test_products_are_those_of_the_dense_hessian() -> None:
    model, (x, y) = smooth(), samples()
    losses, gradient, product = local_loss(model, x, y)
    v = torch.randn(len(x), DIMENSION, dtype=torch.float64)
    expected = (dense(model, x, y) @ v[:, :, None]).squeeze(2)
    torch.testing.assert_close(product(v), expected)
    torch.testing.assert_close(losses, F.cross_entropy(model(x), y, reduction="none").detach())
    step = 1e-6 * v
    moved = F.cross_entropy(model(x + step.view_as(x)), y, reduction="none").detach()
    torch.testing.assert_close(
        (moved - losses) / 1e-6, (gradient * v).sum(dim=1), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("count", "steps"), [(DIMENSION, None), (3, DIMENSION), (1, None)])
def test_eigenvalues_are_those_of_the_dense_hessian(count: int, steps: int | None) -> None:
    model, (x, y) = smooth(), samples()
    found = geometry(model, x, y, count, steps)
    values, vectors = torch.linalg.eigh(dense(model, x, y))
    torch.testing.assert_close(found.eigenvalues, values.flip(1)[:, :count], rtol=1e-7, atol=1e-9)
    first = (found.eigenvectors[:, 0] * vectors[:, :, -1]).sum(dim=1).abs()
    torch.testing.assert_close(first, torch.ones_like(first))


def test_few_steps_find_the_largest_eigenvalue() -> None:
    model, (x, y) = smooth(), samples()
    found = geometry(model, x, y, 1, steps=7)
    largest = torch.linalg.eigvalsh(dense(model, x, y))[:, -1]
    torch.testing.assert_close(found.eigenvalues[:, 0], largest, rtol=0.02, atol=1e-6)


def test_a_hessian_of_low_rank_is_found_whole() -> None:
    with fenced(3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 2)).double().eval()
    x, y = samples()
    y = y % 2
    found = geometry(model, x, y, 5)
    values = torch.linalg.eigvalsh(dense(model, x, y)).flip(1)
    torch.testing.assert_close(found.eigenvalues, values[:, :5], rtol=1e-6, atol=1e-8)
    assert (values[:, 0] > 1e-4).all() and (values[:, 1].abs() < 1e-9).all()
    torch.testing.assert_close(found.cosine, torch.ones(len(x), dtype=torch.float64))


def test_float32_agrees_with_float64() -> None:
    model, (x, y) = smooth(), samples()
    exact = geometry(model, x, y, 3).eigenvalues
    rounded = geometry(model.float(), x.float(), y, 3).eigenvalues
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=1e-4)


def test_samples_do_not_mix() -> None:
    model, (x, y) = smooth(), samples()
    together, alone = geometry(model, x, y, 3), geometry(model, x[2:3], y[2:3], 3)
    torch.testing.assert_close(together.eigenvalues[2:3], alone.eigenvalues)
    torch.testing.assert_close(together.cosine[2:3], alone.cosine)


def test_a_measurement_leaves_no_trace() -> None:
    model, (x, y) = smooth().train(), samples()
    state, before = torch.get_rng_state(), x.clone()
    geometry(model, x, y, 2)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("count", [0, DIMENSION + 1])
def test_more_eigenvalues_than_pixels_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count: must be at least 1 and at most {DIMENSION}"):
        geometry(smooth(), *samples(), count)


@pytest.mark.parametrize("radius", [0.05, 1.0])
def test_the_quadratics_maximum_is_above_every_point_of_the_ball_and_reached(radius: float) -> None:
    model, (x, y) = smooth(), samples()
    found = geometry(model, x, y, DIMENSION)
    hessian, best = dense(model, x, y), quadratic_maximum(found, radius)

    def quadratic(v: Tensor) -> Tensor:
        curved = torch.einsum("nbd,bde,nbe->nb", v, hessian, v)
        return found.loss + (v * found.gradient).sum(dim=2) + 0.5 * curved

    v = torch.randn(2000, len(x), DIMENSION, dtype=torch.float64)
    v = radius * v / v.norm(dim=2, keepdim=True)
    assert bool((quadratic(v) <= best + 1e-9).all())
    for _ in range(500):  # ascent on the sphere
        slope = found.gradient + torch.einsum("bde,nbe->nbd", hessian, v)
        v = v + 0.05 * radius * slope / slope.norm(dim=2, keepdim=True)
        v = radius * v / v.norm(dim=2, keepdim=True)
    torch.testing.assert_close(quadratic(v).amax(dim=0), best, rtol=1e-4, atol=1e-6)


def test_the_bounds_terms_by_hand_and_it_holds_for_a_convex_loss() -> None:
    with fenced(4):
        model = nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, CLASSES)).double().eval()
    x, y = samples(80)
    distilled = torch.stack([x[y == label].mean(dim=0) for label in range(CLASSES)])
    labels, radius = torch.arange(CLASSES), 0.3
    found = proposition1(
        model, lambda images: images.flatten(1), (x, y), (distilled, labels), radius
    )
    assert sorted(found) == list(range(CLASSES))
    for label, terms in found.items():
        own = geometry(model, x[y == label], y[y == label], DIMENSION)
        assert terms.loss == pytest.approx(float(own.loss.mean()))
        assert terms.gradient == pytest.approx(radius * float(own.gradient_norm.mean()))
        largest = float(own.eigenvalues[:, 0].mean())
        assert terms.curvature == pytest.approx(0.5 * radius**2 * largest)
        assert terms.distance == pytest.approx(0, abs=1e-12)
        sums = terms.loss + terms.gradient + terms.curvature
        assert terms.bound == pytest.approx(sums + terms.lipschitz * terms.distance)
        assert terms.holds


def test_the_steepest_slope_is_over_all_pairs() -> None:
    values, features = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([[0.0], [1.0], [3.0]])
    assert steepest(values, features) == pytest.approx(2.0)
    assert steepest(values[:1], features[:1]) == 0
