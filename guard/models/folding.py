"""BatchNorm with constant statistics is an affine map of each channel: the convolution before it
can do it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.models.batchnorm import BatchNorm, affine, batchnorms

Pair = tuple[nn.Conv2d, BatchNorm]
_FOUND: WeakKeyDictionary[nn.Module, list[Pair]] = WeakKeyDictionary()


def convolved(model: nn.Module) -> list[Pair]:
    """Each convolution whose output goes into a BatchNorm and nowhere else, and that BatchNorm;
    looked for once. None in a network that `torch.fx` cannot trace."""
    if model not in _FOUND:
        _FOUND[model] = _traced(model) if batchnorms(model) else []
    return _FOUND[model]


class _Tracer(torch.fx.Tracer):
    """That does not look into any kind of BatchNorm."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, BatchNorm) or super().is_leaf_module(module, name)


def _traced(model: nn.Module) -> list[Pair]:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # whatever a network does with values that it does not have
        return []
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    modules, found = dict(model.named_modules()), []
    for node in calls:
        source = node.args[0]
        if source.op == "call_module" and len(source.users) == times[source.target] == 1:
            convolution, norm = modules[source.target], modules[node.target]
            if times[node.target] == 1 and _folds(convolution, norm):
                found.append((convolution, norm))
    return found


def _folds(convolution: nn.Module, norm: nn.Module) -> bool:
    """Whether they are a Pair."""
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution.padding_mode == "zeros"
        and isinstance(norm, BatchNorm)
        and norm.affine
        and norm.running_mean is not None
    )


def folded_parameters(convolution: nn.Conv2d, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what both do in evaluation mode, differentiable
    in the parameters of both."""
    scale, shift = affine(norm, convolution.bias)
    return convolution.weight * scale[:, None, None, None], shift


def _given(x: Tensor) -> Tensor:
    return x


@contextlib.contextmanager
def folding(pairs: list[Pair]) -> Iterator[None]:
    """Inside the block each convolution does its BatchNorm's work too, in evaluation mode, with the
    parameters and statistics of its beginning."""
    try:
        for convolution, norm in pairs:
            convolution.__dict__["forward"] = _both(convolution, norm)
            norm.__dict__["forward"] = _given
        yield
    finally:
        for module in (module for pair in pairs for module in pair):
            module.__dict__.pop("forward", None)


def _both(own: nn.Conv2d, norm: BatchNorm) -> Callable[[Tensor], Tensor]:
    weight, bias = folded_parameters(own, norm)
    return lambda x: F.conv2d(x, weight, bias, own.stride, own.padding, own.dilation, own.groups)
