from __future__ import annotations

import pytest
import torch
import torchvision
from specs import spec
from torch import nn

from guard.config import ModelConfig
from guard.errors import ConfigError
from guard.models.batchnorm import batchnorms
from guard.models.networks import build_model, folded
from helpers import draws

GREY_32, RGB_32, RGB_96 = spec(size=32), spec(channels=3, size=32), spec(channels=3, size=96)
SMALL = {
    "shufflenet_v2_x0_5": (nn.Conv2d(1, 24, 3, 1, 1, bias=False), True),
    "mobilenet_v2": (nn.Conv2d(1, 32, 3, 1, 1, bias=False), False),
    "densenet121": (nn.Conv2d(1, 64, 3, 1, 1, bias=False), True),
    "resnet18": (nn.Conv2d(1, 64, 3, 1, 1, bias=False), True),
    "squeezenet1_1": (nn.Conv2d(1, 64, 3, 1, 1), True),
}
"""The first convolution of small images of one channel, and whether a pool was left out."""


def theirs(name: str, **fields: object) -> ModelConfig:
    return ModelConfig(name=f"torchvision:{name}").override(fields)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def pools(network: nn.Module) -> int:
    return sum(isinstance(module, nn.MaxPool2d) for module in network.modules())


@pytest.mark.parametrize("name", SMALL)
def test_a_small_stem_keeps_the_resolution(name: str) -> None:
    expected, pooled = SMALL[name]
    model = build_model(theirs(name), GREY_32)
    assert repr(convolutions(model)[0]) == repr(expected)
    published = torchvision.models.get_model(name, weights=None)
    assert pools(published) - pools(model) == pooled
    assert model.eval()(torch.rand(2, 1, 32, 32, generator=draws())).shape == (2, 4)


def test_resnet18_is_ours_whoever_builds_it() -> None:
    ours, other = (build_model(ModelConfig(name=name), RGB_32, seed=3) for name in NAMES)
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (ours, other)]
    assert shapes[0] == shapes[1]


NAMES = ("resnet18", "torchvision:resnet18")


@pytest.mark.parametrize(("images", "stem"), [(RGB_96, "auto"), (RGB_32, "224")])
def test_the_published_stem_stays(images: object, stem: str) -> None:
    model = build_model(theirs("mobilenet_v2", stem=stem), images)  # type: ignore[arg-type]
    assert convolutions(model)[0].stride == (2, 2)


def test_a_network_without_a_stride_in_front_keeps_its_pools() -> None:
    with torch.device("meta"):
        model = build_model(theirs("vgg11_bn"), RGB_32)
        assert pools(model) == pools(torchvision.models.get_model("vgg11_bn", weights=None))


def test_the_same_seed_gives_the_same_weights_and_training_draws_nothing() -> None:
    first, second = (build_model(theirs("mobilenet_v2"), RGB_32, seed=1) for _ in range(2))
    x, before = torch.rand(2, 3, 32, 32, generator=draws()), torch.get_rng_state()
    assert torch.equal(first.train()(x), second.train()(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_folding_changes_nothing_but_rounding() -> None:
    model = build_model(theirs("shufflenet_v2_x0_5"), RGB_32).eval()
    x = torch.rand(2, 3, 32, 32, generator=draws())
    torch.testing.assert_close(folded(model)(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "vgg11",
        "vgg11_bn",
        "squeezenet1_0",
        "mobilenet_v3_small",
        "mnasnet0_5",
        "vit_b_32",
    ],
)
def test_which_networks_have_batchnorm_is_known_without_them(name: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    assert theirs(name).has_batchnorm is bool(batchnorms(network))


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"no classifier 'mobilnet_v2' \(did you mean 'mobilenet_v2'"
    ):
        build_model(theirs("mobilnet_v2"), RGB_32)
    with pytest.raises(ConfigError, match=r"name: must be one of convnet, .*torchvision:NAME"):
        ModelConfig(name="perceptron")
    with pytest.raises(ConfigError, match="tiny-224 is of resnet18"):
        theirs("mobilenet_v2", stem="tiny-224")


def test_images_that_a_network_cannot_see_are_told() -> None:
    with torch.device("meta"):
        with pytest.raises(ValueError, match="vgg11 cannot see images of 8 px"):
            build_model(theirs("vgg11"), spec(channels=3, size=8))
        with pytest.raises(ValueError, match="vit_b_32 cannot be made for 50 px"):
            build_model(theirs("vit_b_32"), spec(channels=3, size=50))
