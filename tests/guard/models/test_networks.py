from __future__ import annotations

import copy

import pytest
import torch
from specs import spec
from torch import nn

from guard.config import ModelConfig
from guard.config.common import NETWORKS
from guard.data.spec import ImageSpec
from guard.errors import ConfigError
from guard.models.batchnorm import batchnorms
from guard.models.input_layer import Normalize
from guard.models.modes import constant_statistics
from guard.models.networks import MODELS, Classifier, build_model, folded, footprint, frozen
from guard.trial import TrialConfig
from helpers import draws


def images(spec: ImageSpec, count: int = 2) -> torch.Tensor:
    shape = (count, spec.channels, spec.image_size, spec.image_size)
    return torch.rand(shape, generator=draws())


GREY_8, GREY_28, RGB_32 = spec(), spec(size=28), spec(channels=3, size=32)
CASES = [
    *[(ModelConfig(name="bn-convnet", width=4), spec) for spec in (GREY_8, GREY_28, RGB_32)],
    *[
        (ModelConfig(name="convnet", width=4, depth=3, norm=norm), spec)
        for norm in ("instance", "batch", "group", "layer", "none")
        for spec in (GREY_8, GREY_28, RGB_32)
    ],
    (ModelConfig(name="resnet18"), GREY_8),
    (ModelConfig(name="resnet18"), RGB_32),
]
IDS = [f"{config.name}-{config.norm}-{spec.image_size}" for config, spec in CASES]


def test_the_cases_cover_every_model() -> None:
    assert {config.name for config, _ in CASES} == set(MODELS)
    assert set(MODELS) == set(NETWORKS)


@pytest.mark.parametrize(("config", "spec"), CASES, ids=IDS)
def test_the_footprint_is_that_of_the_model(config: ModelConfig, spec: ImageSpec) -> None:
    model, given = build_model(config, spec), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, y: given.append(y.numel()))
    model.eval()(images(spec, 1))
    assert footprint(config, spec) == (parameter_count(model), sum(given))


def test_the_footprint_of_images_beyond_all_memory_is_told() -> None:
    """Nothing of their size is made."""
    huge = spec(channels=3, size=10**5)
    assert footprint(ModelConfig(name="resnet18"), huge)[1] > 10**11


def test_a_model_beyond_all_memory_has_no_footprint() -> None:
    assert footprint(ModelConfig(name="bn-convnet", width=10**6), RGB_32)[0] > 10**13
    with pytest.raises(ValueError, match=r"model\.width = 1000000000000 makes weights that fit"):
        footprint(ModelConfig(name="bn-convnet", width=10**12), RGB_32)


@pytest.mark.parametrize(("config", "spec"), CASES, ids=IDS)
def test_a_model_maps_pixels_to_logits(config: ModelConfig, spec: ImageSpec) -> None:
    before = torch.get_rng_state()
    model = build_model(config, spec, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    x = images(spec).requires_grad_()
    logits = model.eval()(x)
    assert logits.shape == (2, spec.num_classes)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient.flatten(1).abs().amax(dim=1).min() > 0
    normalised = (x - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[
        :, None, None
    ]
    torch.testing.assert_close(model.network(normalised), logits)


@pytest.mark.parametrize(
    ("config", "spec"), [CASES[0], CASES[4], CASES[-1]], ids=["bn-convnet", "convnet", "resnet18"]
)
def test_the_same_seed_gives_the_same_weights(config: ModelConfig, spec: ImageSpec) -> None:
    torch.manual_seed(1)
    first = build_model(config, spec, seed=3).state_dict()
    torch.manual_seed(2)
    second = build_model(config, spec, seed=3).state_dict()
    other = build_model(config, spec, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights = [name for name, value in first.items() if value.ndim == 4 and "network" in name]
    assert not any(torch.equal(first[name], other[name]) for name in weights)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_layer_normalises_each_channel(channels: int) -> None:
    facts = spec(channels=channels)
    x = images(facts)
    result = build_model(ModelConfig(width=2), facts).normalize(x)
    for channel in range(channels):
        expected = (x[:, channel] - facts.mean[channel]) / facts.std[channel]
        torch.testing.assert_close(result[:, channel], expected)


@pytest.mark.parametrize("path", ["model.name", "student.model.name", "model.norm", "model.stem"])
def test_unknown_names_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{path}: must be one of .*'perceptron'"):
        TrialConfig().override({path: "perceptron"})


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_convnet_of_dc_has_its_published_size() -> None:
    config = ModelConfig(name="convnet", width=128, depth=3)
    assert parameter_count(build_model(config, spec(3, 32, 10))) == 320_010


def test_the_convnet_pads_mnist_to_32_pixels_as_dc_does() -> None:
    model = build_model(ModelConfig(name="convnet", width=8, depth=3), spec(1, 28, 10))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.padding for m in convolutions] == [(3, 3), (1, 1), (1, 1)]
    assert model.network[-1].in_features == 8 * 4 * 4
    small = build_model(ModelConfig(name="convnet", width=8, depth=3), spec(1, 32, 10))
    assert small.network[0].padding == (1, 1)


def test_a_convnet_too_deep_for_its_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.depth = 4 pools 8 px to nothing"):
        build_model(ModelConfig(name="convnet", depth=4), GREY_8)


def norms(kind: str) -> list[nn.Module]:
    config = ModelConfig(name="convnet", width=64, depth=2, norm=kind)
    kinds = (nn.GroupNorm, nn.BatchNorm2d)
    return [m for m in build_model(config, RGB_32).modules() if isinstance(m, kinds)]


@pytest.mark.parametrize(("kind", "groups"), [("instance", 64), ("group", 2), ("layer", 1)])
def test_group_like_norms(kind: str, groups: int) -> None:
    assert [layer.num_groups for layer in norms(kind)] == [groups] * 2


def test_batch_norm_or_no_norm() -> None:
    assert [type(layer) for layer in norms("batch")] == [nn.BatchNorm2d] * 2
    assert norms("none") == []


def test_has_batchnorm_tells_the_truth() -> None:
    for config, facts in CASES:
        assert bool(batchnorms(build_model(config, facts))) is config.has_batchnorm


@pytest.mark.parametrize(
    ("size", "depth", "sizes", "widths"),
    [
        (8, 4, [8, 8, 4, 4], [4, 4, 8, 8]),
        (32, 5, [32, 32, 16, 16, 8], [4, 4, 8, 8, 16]),
        (8, 2, [8, 8], [4, 4]),
        (4, 6, [4, 4, 2, 2, 2, 2], [4, 4, 8, 8, 8, 8]),
    ],
)
def test_the_bn_convnet_halves_and_doubles_after_every_second_block(
    size: int, depth: int, sizes: list[int], widths: list[int]
) -> None:
    facts = spec(size=size)
    model = build_model(ModelConfig(width=4, depth=depth), facts)
    seen = []
    for layer in batchnorms(model):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model(images(facts))
    assert [shape[-1] for shape in seen] == sizes
    assert [shape[1] for shape in seen] == widths


@pytest.mark.parametrize(
    ("stem", "size", "kernel", "stride", "padding", "pools"),
    [
        ("auto", 32, 3, 1, 1, False),
        ("auto", 64, 3, 1, 1, False),
        ("auto", 224, 7, 2, 3, True),
        ("32", 224, 3, 1, 1, False),
        ("64", 64, 3, 1, 1, False),
        ("224", 64, 7, 2, 3, True),
        ("tiny-224", 224, 3, 2, 3, False),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_stems_of_resnet18(
    stem: str, size: int, kernel: int, stride: int, padding: int, pools: bool, channels: int
) -> None:
    config = ModelConfig(name="resnet18", stem=stem)
    with torch.device("meta"):
        network = MODELS["resnet18"](config, spec(channels, size, 7))
    assert network.conv1.in_channels == channels
    assert network.conv1.out_channels == 64
    assert network.conv1.kernel_size == (kernel, kernel)
    assert network.conv1.stride == (stride, stride)
    assert network.conv1.padding == (padding, padding)
    assert network.conv1.bias is None
    assert isinstance(network.maxpool, nn.MaxPool2d) is pools
    assert network.fc.out_features == 7


def test_frozen_restores_what_was_trainable_even_after_an_error() -> None:
    model = build_model(ModelConfig(width=2, depth=1), GREY_8)
    model.network[0].weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    assert len(set(before)) == 2
    with pytest.raises(RuntimeError), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise RuntimeError
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_a_classifier_is_its_network_after_its_normalisation() -> None:
    model = Classifier(Normalize((0.5,), (0.25,)), nn.Flatten())
    x = images(GREY_8)
    torch.testing.assert_close(model(x), (x.flatten(1) - 0.5) / 0.25)
    assert {"normalize.mean", "normalize.std"} == set(copy.deepcopy(model).state_dict())


@pytest.mark.parametrize("name", ["bn-convnet", "convnet", "resnet18"])
def test_a_folded_model_computes_the_same(name: str) -> None:
    model = build_model(ModelConfig(name=name, width=8, depth=3, norm="batch"), RGB_32, 1)
    x = images(RGB_32, 40)
    model.train()(x)  # running statistics of their own
    before = copy.deepcopy(model.eval().state_dict())
    fast = folded(model)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not fast.training
    assert not batchnorms(fast) and batchnorms(model)
    with constant_statistics(fast):
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
