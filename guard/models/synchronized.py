"""BatchNorm by the statistics of what all processes of a group get."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from guard.group import Group, Share
from guard.models.batchnorm import BatchNorm, batchnorms, set_buffers

PLACES = (0, 2, 3)
"""Dimensions of (B, C, H, W) that a BatchNorm takes statistics over."""


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """BatchNorm in training mode by the statistics of what all processes of a group get, through
    which gradients flow twice (torch's own does neither this nor the CPU)."""

    def __init__(self, like: BatchNorm, group: Group) -> None:
        """With the parameters and buffers of `like`."""
        super().__init__(like.num_features, like.eps, like.momentum)
        self.group, self.apart = group, False
        self.weight, self.bias = like.weight, like.bias
        self.track_running_stats = like.track_running_stats
        set_buffers(self, dict(like.named_buffers()))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), of which B may differ between the processes."""
        if not self.training or self.apart:
            return super().forward(x)
        values = x.float() if x.dtype == torch.bfloat16 else x
        found = _Normalised.apply(values, self.weight, self.bias, self.eps, self.group)
        normalised, mean, variance, count = found
        if self.track_running_stats:
            self._note(mean, variance * count / (count - 1))
        given: Tensor = normalised.to(x.dtype)
        return given

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards these, as torch does; variance: unbiased."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


def group_statistics(x: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Of x (B, C, H, W) in all processes: mean (C,), biased variance (C,), and how many values of a
    channel there are, (1,).

    Each process fills a row of one table, and a sum makes it whole: means of rows and squares
    around them are then put together without taking the difference of large numbers.
    """
    mean = x.mean(dim=PLACES)
    variance = (x - mean[:, None, None]).square().mean(dim=PLACES)
    own = torch.cat([mean, variance, mean.new_full((1,), x.numel() // x.shape[1])])
    before, after = group.rank, group.size - group.rank - 1
    table = group.summed(nn.functional.pad(own[None], (0, 0, before, after)))
    means, variances, counts = table.split([len(mean), len(mean), 1], dim=1)
    count = counts.detach().sum(dim=0)
    shares = counts.detach() / count
    mean = (shares * means).sum(dim=0)
    return mean, (shares * (variances + (means - mean).square())).sum(dim=0), count


class _Normalised(torch.autograd.Function):
    """Normalised x, and the statistics. It and its derivatives are written out, since the same
    operations one by one take five times as long."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, ...]:
        mean, variance, count = group_statistics(x, group)
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance, count)
        ctx.eps, ctx.group = eps, group
        normalised = nn.functional.batch_norm(x, mean, variance, weight, bias, eps=eps)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradients = _Gradients.apply(cotangents[0], *ctx.saved_tensors, ctx.eps, ctx.group)
        return (*gradients, None, None)


class _Gradients(torch.autograd.Function):
    """Of `_Normalised` in x, weight and bias.

    With x' = (x - mean)·r, r = 1/sqrt(variance + eps), and E over all processes:
    by x weight·r·(g - E[g] - x'·E[g·x']), by weight Σ g·x', by bias Σ g, both of this process.
    """

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        group: Group,
    ) -> tuple[Tensor, Tensor, Tensor]:
        by_x, by_weight, by_bias = _constant(g, x, weight, mean, variance, eps)
        e_g, e_gx = (group.summed(torch.cat([by_bias, by_weight])) / count).chunk(2)
        r = torch.rsqrt(variance + eps)
        _add_normalised(by_x, x, mean, r, -weight * r * e_gx, -weight * r * e_g)
        ctx.save_for_backward(g, x, weight, mean, variance, count, e_g, e_gx)
        ctx.eps, ctx.group = eps, group
        ctx.set_materialize_grads(False)
        return by_x, by_weight, by_bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients in g, x and weight of Σ v·by_x + Σ s·by_weight + Σ t·by_bias. The second sum is
        one of u·x' with u = s·g."""
        g, x, weight, mean, variance, count, e_g, e_gx = ctx.saved_tensors
        v, s, t = cotangents
        r, v = torch.rsqrt(variance + ctx.eps), torch.zeros_like(x) if v is None else v
        by_g, vx_sum, v_sum = _constant(v, x, weight, mean, variance, ctx.eps)
        vg_sum = (v * g).sum(dim=PLACES)
        sums = ctx.group.summed(torch.cat([v_sum, vx_sum, vg_sum])) / count
        e_v, e_vx, e_vg = sums.chunk(3)
        scale = -weight * r.square()
        by_x = v * (scale * e_gx)[:, None, None]
        by_x.addcmul_(g, (scale * e_vx)[:, None, None])
        along = e_vg - e_v * e_g - 3 * e_vx * e_gx
        _add_normalised(by_x, x, mean, r, scale * along, -scale * (e_gx * e_v + e_vx * e_g))
        by_weight = r * (vg_sum - e_g * v_sum - e_gx * vx_sum)
        of_x, of_g = -weight * r * e_vx, -weight * r * e_v
        if s is not None:
            own = torch.cat([s * g.sum(dim=PLACES), s * _along(g, x, mean, r)])
            e_u, e_ux = (ctx.group.summed(own) / count).chunk(2)
            by_x.addcmul_(g, (r * s)[:, None, None])
            _add_normalised(by_x, x, mean, r, -r * e_ux, -r * e_u)
            of_x = of_x + s
        _add_normalised(by_g, x, mean, r, of_x, of_g if t is None else of_g + t)
        return by_g, by_x, by_weight, None, None, None, None, None


def _constant(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """weight·r·g, Σ g·x' (C,) and Σ g (C,): the gradients for statistics that are constant."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        g, x, weight, mean, variance, None, None, False, eps, [True, True, True]
    )
    return found


def _along(g: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    """Σ g·x' (C,)."""
    return (g * (x - mean[:, None, None])).sum(dim=PLACES) * r


def _add_normalised(
    to: Tensor, x: Tensor, mean: Tensor, r: Tensor, slope: Tensor, shift: Tensor
) -> None:
    """Add slope·x' + shift, (C,) each, in place."""
    steep = slope * r
    to.addcmul_(x, steep[:, None, None]).add_((shift - steep * mean)[:, None, None])


def synchronize(model: nn.Module, group: Group) -> None:
    """Have every BatchNorm2d of the model see what the whole group sees."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, SynchronizedBatchNorm(module, group))


def normalised_as(model: nn.Module, share: Share) -> AbstractContextManager[None]:
    """Passes inside the block are of a share: where every process has all of the batch, its own
    statistics are those of the batch."""
    return apart(model) if share.repeated else contextlib.nullcontext()


@contextlib.contextmanager
def apart(model: nn.Module) -> Iterator[None]:
    """Passes inside the block are normalised by what this process alone gets."""
    own = [module for module in model.modules() if isinstance(module, SynchronizedBatchNorm)]
    for module in own:
        module.apart = True
    try:
        yield
    finally:
        for module in own:
            module.apart = False


def unsynchronized(model: nn.Module) -> list[Tensor]:
    """Running statistics that can differ between the processes of a group."""
    own = [bn for bn in batchnorms(model) if not isinstance(bn, SynchronizedBatchNorm)]
    return [s for bn in own for s in (bn.running_mean, bn.running_var) if s is not None]
