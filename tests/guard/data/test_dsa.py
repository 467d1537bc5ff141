from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data.dsa import DSA_OPS, DsaDraw, apply_dsa, draw_dsa
from helpers import draws

ATOMIC_ON_CUDA = ("GridSampler", "Gather", "Scatter", "IndexSelect", "IndexAdd", "Take")
EDGES = [[0.0, 0.0, 0.0], [1 - 2**-24] * 3, [0.0, 1 - 2**-24, 0.5]]


def images(count: int = 6, channels: int = 3, size: int = 8) -> Tensor:
    """Images around zero, as of a network that normalises its input."""
    return torch.randn(count, channels, size, size, generator=draws(42), dtype=torch.float64)


def exact(op: str, count: int, seed: int = 0) -> DsaDraw:
    """A draw in double precision, its first rows at the edges of the range."""
    uniform = torch.rand(count, 3, generator=draws(seed), dtype=torch.float64)
    edges = torch.tensor(EDGES, dtype=torch.float64)[:count]
    return DsaDraw(op, torch.cat([edges, uniform[len(edges) :]]))


def part(draw: DsaDraw, index: int) -> DsaDraw:
    return DsaDraw(draw.op, draw.uniform[index : index + 1])


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov distance to U(low, high), far beyond chance only if they differ."""
    assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
    wanted = torch.linspace(0, 1, len(values), dtype=values.dtype)
    distance = ((values.sort().values - low) / (high - low) - wanted).abs().max()
    assert float(distance) < 1.9 / math.sqrt(len(values))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 32])
@pytest.mark.parametrize("op", DSA_OPS)
def test_an_operation_keeps_the_shape_and_its_input(op: str, size: int, channels: int) -> None:
    x = images(4, channels, size)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        given = x.to(dtype)
        for count in (1, 4):
            y = apply_dsa(given, draw_dsa([op], count, draws(count)))
            assert y.shape == x.shape and y.dtype == dtype and y.device == x.device
            assert y.isfinite().all()
        assert torch.equal(given, x.to(dtype))


@pytest.mark.parametrize("op", DSA_OPS)
def test_a_draw_comes_from_its_generator_alone(op: str) -> None:
    x, before = images(), torch.get_rng_state()
    results = [apply_dsa(x, draw_dsa([op], len(x), draws(seed))) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("op", DSA_OPS)
def test_one_draw_does_the_same_to_every_image_of_any_batch(op: str) -> None:
    for seed in range(6):
        draw = draw_dsa([op], 1, draws(seed))
        real, synthetic = images(7), images(3) + 1
        for x in (real, synthetic):
            alone = torch.cat([apply_dsa(image[None], draw) for image in x])
            torch.testing.assert_close(apply_dsa(x, draw), alone)


@pytest.mark.parametrize("op", DSA_OPS)
def test_a_draw_per_image_changes_each_in_its_own_way(op: str) -> None:
    x = images(1, size=16).expand(40, -1, -1, -1)
    draw = draw_dsa([op], 40, draws(1))
    y = apply_dsa(x, draw)
    alone = torch.cat([apply_dsa(x[:1], part(draw, index)) for index in range(40)])
    torch.testing.assert_close(y, alone)
    assert len(y.flatten(1).unique(dim=0)) >= (2 if op == "flip" else 10)


@pytest.mark.parametrize("count", [2, 5])
def test_a_draw_for_another_number_of_images_is_refused(count: int) -> None:
    for batch in (1, 3):
        with pytest.raises(ValueError, match=f"{count} images .* batch of {batch}"):
            apply_dsa(images(batch), draw_dsa(["color"], count, draws()))


@pytest.mark.parametrize("ops", [DSA_OPS, ("color", "crop", "scale"), ("rotate",)])
def test_the_named_operations_are_drawn_equally_often(ops: tuple[str, ...]) -> None:
    generator = draws()
    drawn = [draw_dsa(ops, 1, generator).op for _ in range(1200)]
    assert set(drawn) == set(ops)
    for op in ops:
        assert drawn.count(op) == pytest.approx(1200 / len(ops), rel=0.25)


@pytest.mark.parametrize("ops", [(), ("blur",), ("flip", "blur"), "flip"])
def test_no_or_unknown_operations_are_refused(ops: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="color, crop, cutout, flip, scale, rotate"):
        draw_dsa(ops, 1, draws())


def test_every_operation_takes_as_much_from_the_generator() -> None:
    states = []
    for op in DSA_OPS:
        generator = draws()
        draw_dsa([op], 4, generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("op", DSA_OPS)
def test_gradients_are_exact(op: str, count: int) -> None:
    x = images(4, 2, 5).requires_grad_()
    draw = exact(op, count, seed=3)
    assert torch.autograd.gradcheck(lambda x: apply_dsa(x, draw), (x,))


@pytest.mark.parametrize("op", DSA_OPS)
def test_no_gradient_is_summed_in_an_arbitrary_order(op: str) -> None:
    y = apply_dsa(images().requires_grad_(), draw_dsa([op], 1, draws()))
    nodes, names = [y.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.add(node.name())
            nodes += [following for following, _ in node.next_functions]
    assert "torch::autograd::AccumulateGrad" in names
    assert not [name for name in names if name.startswith(ATOMIC_ON_CUDA)]


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("op", DSA_OPS)
def test_cuda_agrees_with_the_cpu_and_repeats_its_gradient(op: str, count: int) -> None:
    x = images(64, size=32).float()
    draw = draw_dsa([op], count, draws())
    there = x.cuda().requires_grad_()
    y = apply_dsa(there, draw)
    assert y.is_cuda
    torch.testing.assert_close(y.detach().cpu(), apply_dsa(x, draw), atol=1e-4, rtol=1e-4)
    gradients = [torch.autograd.grad(y, there, y, retain_graph=True)[0] for _ in range(10)]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_color_is_brightness_then_saturation_then_contrast(channels: int) -> None:
    x, draw = images(8, channels), exact("color", 8)
    y = apply_dsa(x, draw).numpy()
    for image, (b, s, c), got in zip(x.numpy(), draw.uniform.tolist(), y, strict=True):
        bright = image + (b - 0.5)
        gray = bright.mean(axis=0)
        saturated = np.stack([(channel - gray) * (s * 2) + gray for channel in bright])
        expected = (saturated - saturated.mean()) * (c + 0.5) + saturated.mean()
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_color_parameters_cover_their_ranges() -> None:
    draw = draw_dsa(["color"], 2000, draws())
    step = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    gray = step.view(1, 1, 1, 2).expand(2000, 2, 1, 2)
    tinted = step.view(1, 2, 1, 1).expand(2000, 2, 1, 2)
    y = apply_dsa(gray, draw)
    brightness, contrast = y.mean(dim=(1, 2, 3)), (y[:, 0, 0, 1] - y[:, 0, 0, 0]) / 2
    z = apply_dsa(tinted, draw)
    saturation = (z[:, 1, 0, 0] - z[:, 0, 0, 0]) / 2 / contrast
    assert_uniform(brightness, -0.5, 0.5)
    assert_uniform(saturation, 0, 2)
    assert_uniform(contrast, 0.5, 1.5)
    correlations = torch.corrcoef(torch.stack([brightness, saturation, contrast]))
    assert (correlations - torch.eye(3)).abs().max() < 0.08


@pytest.mark.parametrize(("size", "reach"), [(3, 0), (4, 1), (8, 1), (12, 2), (32, 4)])
def test_a_crop_shifts_each_way_by_up_to_an_eighth(size: int, reach: int) -> None:
    x = images(1, size=size).expand(1000, -1, -1, -1)
    y = apply_dsa(x, draw_dsa(["crop"], 1000, draws()))
    padded = torch.nn.functional.pad(x[:1], (reach,) * 4)
    starts = range(2 * reach + 1)
    windows = [padded[..., r : r + size, c : c + size] for r in starts for c in starts]
    matches = torch.stack([(y == window).flatten(1).all(dim=1) for window in windows])
    assert bool((matches.sum(dim=0) == 1).all())
    expected = 1000 / len(windows)
    assert (matches.sum(dim=1) - expected).abs().max() < 4.5 * math.sqrt(expected) + 1e-9


@pytest.mark.parametrize(("size", "side"), [(5, 3), (7, 4), (8, 4), (9, 5), (32, 16)])
def test_a_cutout_zeroes_one_square_clipped_at_the_border(size: int, side: int) -> None:
    x, draw = images(300, size=size), exact("cutout", 300)
    y = apply_dsa(x, draw)
    holes = (y == 0).all(dim=1)
    assert torch.equal(y, x * ~holes[:, None])
    rows, columns = holes.any(dim=2), holes.any(dim=1)
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        inner = line[:, 1:-1].any(dim=1) & ~line[:, 0] & ~line[:, -1]
        lengths = line.sum(dim=1)
        changes = (line[:, 1:] != line[:, :-1]).sum(dim=1)
        assert bool((changes == torch.where(inner, 2, 1)).all())
        assert set(lengths[inner].tolist()) == {side}
        assert set(lengths[~inner].tolist()) == set(range((side + 1) // 2, side + 1))


@pytest.mark.parametrize(("size", "centers"), [(5, 5), (8, 9), (32, 33)])
def test_cutout_centers_are_uniform(size: int, centers: int) -> None:
    x = torch.ones(4000, 1, size, size)
    holes = apply_dsa(x, draw_dsa(["cutout"], 4000, draws()))[:, 0] == 0
    lines = (holes.any(dim=2), holes.any(dim=1))
    for line in lines:
        _, places = line.unique(dim=0, return_counts=True)
        assert len(places) == centers
        expected = 4000 / centers
        assert (places - expected).abs().max() < 4.5 * math.sqrt(expected)
    rows, columns = ((line * torch.arange(size)).sum(dim=1) / line.sum(dim=1) for line in lines)
    assert abs(float(torch.corrcoef(torch.stack([rows, columns]))[0, 1])) < 0.06


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    x = images(400)
    y = apply_dsa(x, draw_dsa(["flip"], 400, draws()))
    mirrored = (y == x.flip(-1)).flatten(1).all(dim=1)
    kept = (y == x).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~kept)
    assert 160 < int(mirrored.sum()) < 240


def warped(x: Tensor, matrices: Tensor) -> Tensor:
    """The reference: (B, 2, 2) matrices from places in the result to places in x, as (x, y)."""
    theta = torch.cat([matrices, torch.zeros(len(x), 2, 1, dtype=x.dtype)], dim=2)
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 32])
@pytest.mark.parametrize("op", ["scale", "rotate"])
def test_scale_and_rotate_sample_bilinearly_with_zeros_outside(op: str, size: int) -> None:
    x, draw = images(20, size=size), exact(op, 20)
    down, right, _ = draw.uniform.T
    if op == "scale":
        factors = torch.stack([right, down], dim=1) * (1.2 - 1 / 1.2) + 1 / 1.2
        matrices = torch.diag_embed(factors)
    else:
        angle = torch.deg2rad(30 * down - 15)
        entries = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
        matrices = torch.stack(entries, dim=1).view(-1, 2, 2)
    torch.testing.assert_close(apply_dsa(x, draw), warped(x, matrices), rtol=0, atol=1e-9)
    coarse = DsaDraw(op, draw.uniform.float().clamp(max=1 - 2**-24))
    torch.testing.assert_close(
        apply_dsa(x.float(), coarse), warped(x, matrices).float(), rtol=0, atol=2e-4
    )


def slopes(op: str) -> Tensor:
    """(2, 2, 2000): what 2000 draws make of the slopes, down and right (second axis), at the
    centre of a ramp down and of a ramp right (first axis)."""
    line = torch.arange(8.0, dtype=torch.float64) - 3.5
    draw = DsaDraw(op, draw_dsa([op], 2000, draws()).uniform.double())
    ramps = [line[:, None].expand(8, 8), line[None].expand(8, 8)]
    results = [apply_dsa(ramp.expand(2000, 1, 8, 8), draw)[:, 0, 3:5, 3:5] for ramp in ramps]
    return torch.stack(
        [torch.stack([y[:, 1, 0] - y[:, 0, 0], y[:, 0, 1] - y[:, 0, 0]]) for y in results]
    )


def test_scales_cover_their_range_independently_per_axis() -> None:
    (down, skew), (other_skew, right) = slopes("scale")
    torch.testing.assert_close(torch.stack([skew, other_skew]), torch.zeros(2, 2000).double())
    assert_uniform(down, 1 / 1.2, 1.2)
    assert_uniform(right, 1 / 1.2, 1.2)
    assert abs(float(torch.corrcoef(torch.stack([down, right]))[0, 1])) < 0.08


def test_angles_cover_their_range() -> None:
    (down, skew), (other_skew, right) = slopes("rotate")
    torch.testing.assert_close(down, right)
    torch.testing.assert_close(skew, -other_skew)
    torch.testing.assert_close(down.square() + skew.square(), torch.ones(2000).double())
    assert_uniform(torch.atan2(skew, down).rad2deg(), -15, 15)
