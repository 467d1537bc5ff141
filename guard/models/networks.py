"""Networks. Every model takes pixels in [0, 1], (B, C, H, W), and returns logits, (B, K)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.models.folding import convolved, folded_parameters
from guard.models.input_layer import InputLayer, Normalize, input_layer
from guard.models.stems import torchvision_classifier
from guard.seeding import fenced

SMALL_PX = 256
"""Images of this side are computed in no time and memory to speak of."""


class Classifier(nn.Module):
    """A fixed input layer, then a network."""

    lowered = False
    """Whether passes take bfloat16 (`guard.models.precision`)."""
    compiled = False
    """Whether passes are compiled (`guard.models.compiling`)."""

    def __init__(self, normalize: InputLayer, network: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of pixels x (B, C, H, W) in [0, 1]."""
        return self.of_normalized(self.normalize(x))

    def of_normalized(self, u: Tensor) -> Tensor:
        """Logits (B, K) of what the input layer gives, (B, C, H, W)."""
        logits: Tensor
        if not self.lowered:
            logits = self.network(u)
            return logits
        with torch.autocast(self.normalize.mean.device.type, torch.bfloat16):
            logits = self.network(u)
        return logits.float()


class Average(nn.Module):
    """The mean of several classifiers' logits."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) of pixels x (B, C, H, W)."""
        total: Tensor = sum(member(x) for member in self.members)
        return total / len(self.members)


def committee(members: Sequence[Classifier]) -> Classifier:
    """Several classifiers of the same images as one; its own first layer changes nothing."""
    return Classifier(Normalize((0.0,), (1.0,)), Average(members))


def members_of(model: Classifier) -> list[Classifier]:
    """The classifiers of a committee; any other one alone."""
    if not isinstance(model.network, Average):
        return [model]
    return [own for own in model.network.members if isinstance(own, Classifier)]


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = {"instance": channels, "group": max(channels // 32, 1), "layer": 1}
    return nn.GroupNorm(groups[kind], channels)


def _convnet(config: ModelConfig, spec: ImageSpec) -> nn.Module:
    """The ConvNet of DC and MTT: depth × (conv 3x3, norm, ReLU, average pool 2), linear.

    Grey 28 px images are padded to 32, as in DC (github.com/VICO-UoE/DatasetCondensation).
    """
    channels, size = spec.channels, spec.image_size
    layers: list[nn.Module] = []
    for block in range(config.depth):
        padding = 3 if block == 0 and spec.channels == 1 and spec.image_size == 28 else 1
        size = size + 2 * padding - 2
        if size < 2:
            raise ValueError(f"model.depth = {config.depth} pools {spec.image_size} px to nothing")
        convolution = nn.Conv2d(channels, config.width, 3, padding=padding)
        layers += [convolution, _norm(config.norm, config.width), nn.ReLU(), nn.AvgPool2d(2)]
        channels, size = config.width, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size**2, spec.num_classes))


def _bn_convnet(config: ModelConfig, spec: ImageSpec) -> nn.Module:
    """A small BatchNorm network: depth × (conv 3x3, BatchNorm, ReLU), the resolution halved and the
    channels doubled after every second block while at least 4 px are left; global pool, linear."""
    channels, width, size = spec.channels, config.width, spec.image_size
    layers: list[nn.Module] = []
    for block in range(config.depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()]
        channels = width
        if block % 2 == 1 and size >= 4 and block < config.depth - 1:
            layers += [nn.AvgPool2d(2)]
            width, size = width * 2, size // 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.num_classes)]
    return nn.Sequential(*layers, *head)


def _resnet18(config: ModelConfig, spec: ImageSpec) -> nn.Module:
    """torchvision's ResNet-18 with the first layers of SRe2L for 32 and 64 px (3x3, no pooling),
    of ImageNet for 224 px, or of GUARD for Tiny ImageNet upsampled to 224 px."""
    from torchvision.models import resnet18  # doubles the start-up time of a process

    network: nn.Module = resnet18(num_classes=spec.num_classes)
    stem = config.stem
    if stem == "auto":
        stem = "32" if spec.image_size <= 64 else "224"
    if stem == "224":
        if spec.channels != 3:
            network.conv1 = nn.Conv2d(spec.channels, 64, 7, stride=2, padding=3, bias=False)
        return network
    stride, padding = (2, 3) if stem == "tiny-224" else (1, 1)
    network.conv1 = nn.Conv2d(spec.channels, 64, 3, stride=stride, padding=padding, bias=False)
    network.maxpool = nn.Identity()
    return network


MODELS: dict[str, Callable[[ModelConfig, ImageSpec], nn.Module]] = {
    "convnet": _convnet,
    "bn-convnet": _bn_convnet,
    "resnet18": _resnet18,
}


def build_model(config: ModelConfig, spec: ImageSpec, seed: int = 0) -> Classifier:
    """A freshly initialised model, on the CPU; the same seed gives the same weights. Raises
    ValueError for images that it cannot see, and for a name that torchvision does not have."""
    layer = input_layer(config, spec)
    build = MODELS.get(config.name, torchvision_classifier)
    with fenced(seed, "model"):
        network = build(config, spec)
    return Classifier(layer, network)


def footprint(config: ModelConfig, spec: ImageSpec) -> tuple[int, int]:
    """How many numbers a model learns, and how many its convolutions give for one image; at most a
    model of width 1 sees a small image. Raises ValueError for a model that cannot be, as one that
    fits in no memory."""
    try:
        with torch.device("meta"):
            model = build_model(config, spec)
    except (RuntimeError, TypeError, OverflowError):  # of sizes beyond 64 bits
        raise ValueError(
            f"model.width = {config.width} makes weights that fit in no memory"
        ) from None
    places = _places(replace(config, width=1), spec)
    given = sum(places[name] * layer.out_channels for name, layer in _convolutions(model))
    return sum(p.numel() for p in model.parameters()), given


def takes_one_image(config: ModelConfig, spec: ImageSpec) -> bool:
    """Whether a model can be trained on a batch of one: no BatchNorm sees a single place."""
    if spec.image_size > SMALL_PX:
        return True
    model = build_model(replace(config, width=1), spec).train()
    try:
        with torch.no_grad():
            model(torch.zeros(1, spec.channels, spec.image_size, spec.image_size))
    except ValueError:
        return False
    return True


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    every = model.named_modules()
    return ((name, module) for name, module in every if isinstance(module, nn.Conv2d))


def _places(config: ModelConfig, spec: ImageSpec) -> dict[str, int]:
    """In how many places each convolution looks at an image. Shapes alone would do for all images,
    but torch loads its compiler for them, for seconds."""
    found: dict[str, int] = {}

    def note(name: str, y: Tensor) -> None:
        found[name] = y[0, 0].numel()

    with torch.device("cpu" if spec.image_size <= SMALL_PX else "meta"), torch.no_grad():
        model = build_model(config, spec).eval()
        for name, layer in _convolutions(model):
            layer.register_forward_hook(lambda _, inputs, y, name=name: note(name, y))
        model(torch.empty(1, spec.channels, spec.image_size, spec.image_size))
    return found


@torch.no_grad()
def folded(model: Classifier) -> Classifier:
    """A copy for evaluation that computes the same up to rounding, in about half of the time on a
    CPU: each BatchNorm is folded into the convolution before it, and images lie channels last."""
    copied = copy.deepcopy(model).eval()
    names = {module: name for name, module in model.named_modules()}
    for convolution, norm in convolved(model):  # the copy shall not be known by pairs that it loses
        weight, bias = folded_parameters(convolution, norm)
        own = copied.get_submodule(names[convolution])
        own.weight, own.bias = nn.Parameter(weight), nn.Parameter(bias)
        copied.set_submodule(names[norm], nn.Identity())
    return copied.to(memory_format=torch.channels_last)


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters without gradients inside the block; restored after it."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@torch.no_grad()
def penultimate(model: nn.Module, x: Tensor) -> Tensor:
    """What the last linear layer of the model receives for images x (N, C, H, W): (N, F)."""
    return features_and_logits(model, x)[0]


def features_and_logits(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the last linear layer receives for images x (N, C, H, W), (N, F), and the logits (N, K),
    of one pass; both differentiable."""
    received: list[Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    try:
        logits = model(x)
    finally:
        handle.remove()
    return received[0], logits
