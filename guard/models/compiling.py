"""Networks that torch compiles: fewer and larger kernels, for passes that are differentiated once.

What is compiled cannot be differentiated twice (`torch.compile` refuses), so nothing with a penalty
is. No draw is made inside a network, so the same are made whether it is compiled or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from guard.config import ComputeConfig
from guard.device import has_compiler
from guard.models.networks import Classifier


def compiled(model: Classifier, compute: ComputeConfig) -> Classifier:
    """The model itself. Where the config wants it and this machine has a compiler, its network is
    compiled at its first pass.

    Batches of any size are one graph, and what this process has compiled before is forgotten: else
    which kernels there are, and with them the last bits, would depend on what came before.
    """
    if compute.compile and has_compiler(compute.device):
        torch.compiler.reset()
        model.network.compile(dynamic=True)
        model.compiled = True
    return model


@contextlib.contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Passes inside the block are not compiled, and compile nothing."""
    if not (isinstance(model, Classifier) and model.compiled):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
