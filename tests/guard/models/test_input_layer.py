from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from guard.artifacts import ArtifactStore
from guard.config import ComputeConfig, ModelConfig, RegularizerConfig
from guard.data.datasets import load_data
from guard.data.images import TensorImages
from guard.data.spec import ImageSpec
from guard.models.input_layer import InputLayer, Normalize, Zca, fit_zca, input_layer
from guard.models.networks import build_model
from guard.models.saving import load_model, save_model
from guard.pipeline import local_runner, run_trial
from guard.robustness.attacks import ThreatModel, attack_images
from guard.stages import Whitening
from guard.training.losses import attack_batch
from guard.trial import TrialConfig
from guard.trial_stages import plan
from helpers import CPU, draws

SPEC = ImageSpec(
    channels=2,
    image_size=4,
    num_classes=3,
    mean=(0.3, 0.6),
    std=(0.2, 0.4),
    class_names=tuple("abc"),
)
LAYERS = ("normalize", "zca")


def image_set(count: int = 1500) -> TensorImages:
    """Images whose pixels hang together; more than are read at once."""
    mixing = torch.randn(32, 32, generator=draws(1)) / 6
    values = 0.5 + torch.randn(count, 32, generator=draws()) @ mixing / 2
    x = values.clamp(0, 1).mul(255).round().byte().view(count, 2, 4, 4)
    return TensorImages(x, torch.arange(count) % 3)


def pixels(count: int = 1500) -> Tensor:
    return image_set(count).x.float() / 255


def fitted() -> Zca:
    layer = Zca(SPEC)
    layer.load_state_dict(fit_zca(image_set(), SPEC, CPU))
    return layer


def layer_named(name: str) -> InputLayer:
    return fitted() if name == "zca" else Normalize(SPEC.mean, SPEC.std)


def test_zca_is_fitted_as_in_numpy() -> None:
    x = image_set().x.numpy().reshape(1500, 32) / 255
    mean, covariance = x.mean(axis=0), np.cov(x, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    weight = vectors @ np.diag(1 / np.sqrt(values + 0.1)) @ vectors.T
    found = fit_zca(image_set(), SPEC, CPU)
    np.testing.assert_allclose(found["mean"].numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(found["weight"].numpy(), weight, atol=1e-5)
    assert found["weight"].dtype == found["mean"].dtype == torch.float32


def test_whitening_shrinks_each_variance_s_to_s_over_s_plus_a_tenth() -> None:
    flat, white = (v.flatten(1).double().numpy() for v in (pixels(), fitted()(pixels())))
    before, after = (np.linalg.eigvalsh(np.cov(v, rowvar=False)) for v in (flat, white))
    np.testing.assert_allclose(after, before / (before + 0.1), atol=1e-5)
    assert after.max() > 0.3
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-5)


def test_zca_that_is_not_fitted_changes_nothing() -> None:
    layer, x = Zca(SPEC), pixels(5)
    assert torch.equal(layer(x), x)
    assert torch.equal(layer.inverse(x), x)


@pytest.mark.parametrize("name", LAYERS)
def test_the_inverse_undoes_the_layer(name: str) -> None:
    layer, x = layer_named(name), pixels(9)
    assert (layer(x) - x).abs().max() > 0.1
    torch.testing.assert_close(layer.inverse(layer(x)), x, atol=1e-5, rtol=1e-5)
    u = torch.randn(9, 2, 4, 4, generator=draws(3))
    torch.testing.assert_close(layer(layer.inverse(u)), u, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_the_inverse_is_differentiable(name: str) -> None:
    layer = copy.deepcopy(layer_named(name)).double()
    u = torch.randn(2, 2, 4, 4, generator=draws(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: layer.inverse(u), (u,))


@pytest.mark.parametrize("name", LAYERS)
def test_a_projected_image_is_the_clamped_image(name: str) -> None:
    layer = layer_named(name)
    u = 3 * torch.randn(9, 2, 4, 4, generator=draws(3))
    before, after = layer.inverse(u), layer.inverse(layer.project(u))
    assert before.min() < -0.1 and before.max() > 1.1
    assert after.min() > -1e-5 and after.max() < 1 + 1e-5
    torch.testing.assert_close(after, before.clamp(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_an_image_in_range_is_its_own_projection(name: str) -> None:
    layer = layer_named(name)
    u = layer(pixels(9))
    torch.testing.assert_close(layer.project(u), u, atol=1e-5, rtol=1e-5)


def test_the_inverse_is_of_the_weights_that_the_layer_has_now() -> None:
    layer, x = Zca(SPEC), pixels(3)
    layer.inverse(x)
    layer.load_state_dict(fit_zca(image_set(), SPEC, CPU))
    torch.testing.assert_close(layer.inverse(layer(x)), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "size", "values"), [(3, 37, 4107), (3, 64, 12288), (1, 65, 4225)]
)
def test_zca_refuses_large_images(channels: int, size: int, values: int) -> None:
    spec = ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=2,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        class_names=("a", "b"),
    )
    with pytest.raises(ValueError, match=rf"^model\.input: .* up to 4096 values, .* {values}$"):
        input_layer(ModelConfig(input="zca"), spec)
    assert isinstance(input_layer(ModelConfig(), spec), Normalize)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 64)])
def test_zca_takes_images_up_to_the_limit(channels: int, size: int) -> None:
    spec = ImageSpec(
        channels=channels,
        image_size=size,
        num_classes=2,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        class_names=("a", "b"),
    )
    with torch.device("meta"):
        layer = input_layer(ModelConfig(input="zca"), spec)
    assert isinstance(layer, Zca) and layer.weight.shape == (spec.num_values,) * 2


def test_a_saved_model_keeps_its_whitening(tmp_path: Path) -> None:
    config = ModelConfig(width=3, depth=2, input="zca")
    model = build_model(config, SPEC).eval()
    model.normalize.load_state_dict(fit_zca(image_set(), SPEC, CPU))
    save_model(model, config, SPEC, tmp_path)
    loaded, x = load_model(tmp_path), pixels(4)
    assert torch.equal(loaded(x), model(x))
    torch.testing.assert_close(loaded(x), model.network(fitted()(x)))


def zca_config(tiny_config: TrialConfig) -> TrialConfig:
    changes = {"method": "whole", "regularizer": "none", "model.input": "zca"}
    return tiny_config.override({**changes, "evaluation.diagnose": False})


def test_whitening_is_fitted_on_the_training_images_alone(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    config = zca_config(tiny_config)
    stage = Whitening.of(config.shared, config.model)
    assert stage is not None
    artifact = ArtifactStore(tmp_path).get_or_build(stage)
    splits = load_data(config.data)
    expected = fit_zca(splits.train, splits.spec, CPU)
    found = load_file(artifact.path / "whitening.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_whitening_is_one_stage_and_only_where_a_model_needs_it(tiny_config: TrialConfig) -> None:
    config = zca_config(tiny_config)
    plain, zca = ModelConfig(), ModelConfig(input="zca", width=9)
    assert Whitening.of(config.shared, plain) is None
    stage = Whitening.of(config.shared, zca)
    assert stage is not None and stage == Whitening.of(config.shared, config.model)
    whitenings = [found for found in plan(config) if found.name == "whitening"]
    assert whitenings == [stage]
    assert stage.config == {
        "data": config.data.to_dict(),
        "compute": ComputeConfig().to_dict(),
    }


def test_a_whitening_model_is_trained_and_attacked_in_pixels(
    tiny_config: TrialConfig, tmp_path: Path
) -> None:
    config = zca_config(tiny_config)
    result = run_trial(config, local_runner(ArtifactStore(tmp_path)))
    assert result.status == "complete"
    assert [record.name for record in result.stages] == [stage.name for stage in plan(config)]
    assert result.metrics["test/clean_accuracy"] > 0.5
    model, splits = load_model(result.paths["student"]), load_data(config.data)
    fit = fit_zca(splits.train, splits.spec, CPU)
    assert isinstance(model.normalize, Zca) and torch.equal(model.normalize.weight, fit["weight"])
    x, y = next(splits.test.batches(40, CPU))
    eps = 0.05
    evaluated = attack_images("pgd5", model, x, y, ThreatModel(eps=eps, num_classes=10), 0)
    trained = attack_batch(model, x, y, RegularizerConfig.named("pgd-at"), eps, draws())
    for moved in (evaluated, trained):
        assert eps - 1e-3 < (moved - x).abs().max() < eps + 1e-6
        assert 0 <= moved.min() and moved.max() <= 1
        assert float((model(moved).argmax(1) == y).double().mean()) < float(
            (model(x).argmax(1) == y).double().mean()
        )
