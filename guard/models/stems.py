"""torchvision's classifiers, fitted to small images."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from guard.config import ModelConfig
from guard.data.spec import ImageSpec

SMALL_SIDE = 64
"""Up to this side, in pixels, a network sees images at full resolution (stem = auto)."""
Place = tuple[nn.Module, str, nn.Module]
"""A module, its attribute, and the layer that is there."""


def torchvision_classifier(config: ModelConfig, spec: ImageSpec) -> nn.Module:
    """A classifier of torchvision by name, without weights. Its first convolution takes the images'
    channels; with a small stem it keeps their resolution, see `full_resolution`. Dropout and
    stochastic depth are off, since they would draw from the global generator.

    Raises ValueError for an unknown name, and for images that the network cannot see.
    """
    name = config.torchvision_name
    assert name is not None
    network = _constructed(name, spec)
    for module in network.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            setattr(module, "p", 0.0)  # noqa: B010 (not every module has one)
    small = spec.image_size <= SMALL_SIDE if config.stem == "auto" else config.stem != "224"
    places = list(_places(network))
    if small and not _sees_fixed_patches(network):
        full_resolution(places, spec.channels)
    elif spec.channels != 3:
        _replace_convolution(places, spec.channels)
    _try(network, name, spec)
    return network


def full_resolution(places: list[Place], channels: int) -> None:
    """A first convolution with a stride gets stride 1, a kernel of 3 px if it was larger, and
    `channels` inputs; the max-pooling before the second convolution, if there is one, is left out.
    So ResNet's 7x7/2 and pool, MobileNet's 3x3/2 and ConvNeXt's 4x4/4 become 3x3/1, as the small
    stem of ResNet-18 is; VGG's 3x3/1 stays.
    """
    first = _replace_convolution(places, channels, small=True)
    if first.stride == (1, 1):
        return
    kinds = [place for place in places if isinstance(place[2], nn.Conv2d | nn.MaxPool2d)]
    parent, name, second = kinds[1]
    if isinstance(second, nn.MaxPool2d):
        setattr(parent, name, nn.Identity())


def _replace_convolution(places: list[Place], channels: int, *, small: bool = False) -> nn.Conv2d:
    """Returns the first convolution as it was."""
    parent, name, was = next(place for place in places if isinstance(place[2], nn.Conv2d))
    assert isinstance(was, nn.Conv2d)
    kept: dict[str, Any] = {
        "kernel_size": was.kernel_size,
        "stride": was.stride,
        "padding": was.padding,
    }
    if small and was.stride != (1, 1):
        kept = {"kernel_size": 3, "stride": 1, "padding": 1}
    if channels != was.in_channels or kept["stride"] == 1:
        made = nn.Conv2d(channels, was.out_channels, bias=was.bias is not None, **kept)
        setattr(parent, name, made)
    return was


def _places(network: nn.Module) -> Iterator[Place]:
    """Every layer, in the order in which they are declared."""
    for path, layer in network.named_modules():
        if not list(layer.children()):
            parent, _, name = path.rpartition(".")
            yield network.get_submodule(parent), name, layer


def _sees_fixed_patches(network: nn.Module) -> bool:
    """Whether it was made for images of one size (a vision transformer)."""
    return "image_size" in inspect.signature(type(network)).parameters


def _constructed(name: str, spec: ImageSpec) -> nn.Module:
    import torchvision  # doubles the start-up time of a process

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"model.name: torchvision has no classifier {name!r}{hint}; there are: "
            f"{', '.join(sorted(known))}"
        )
    options: dict[str, Any] = {"num_classes": spec.num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith(("vit_", "maxvit")):
        options["image_size" if name.startswith("vit_") else "input_size"] = (
            spec.image_size if name.startswith("vit_") else (spec.image_size, spec.image_size)
        )
    try:
        made: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"model.name: {name} cannot be made for {spec.image_size} px ({error})"
        ) from None
    return made


@torch.no_grad()
def _try(network: nn.Module, name: str, spec: ImageSpec) -> None:
    was = network.training
    try:
        network.eval()(torch.zeros(1, spec.channels, spec.image_size, spec.image_size))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model.name: {name} cannot see images of {spec.image_size} px ({reason})"
        ) from None
    network.train(was)
