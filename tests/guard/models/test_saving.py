from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.models.networks import build_model
from guard.models.saving import load_model, load_spec, save_model
from helpers import draws

SPEC = ImageSpec(
    channels=3,
    image_size=8,
    num_classes=2,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    class_names=("cat", "d/og"),
)


@pytest.mark.parametrize(
    "config", [ModelConfig(width=3, depth=2), ModelConfig(name="convnet", width=3, depth=1)]
)
def test_a_saved_model_answers_as_before(config: ModelConfig, tmp_path: Path) -> None:
    model = build_model(config, SPEC, seed=5)
    x = torch.rand(4, 3, 8, 8, generator=draws())
    model(x)
    save_model(model, config, SPEC, tmp_path)
    before = torch.get_rng_state()
    loaded = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.training
    assert torch.equal(loaded(x), model.eval()(x))
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items()
    )


def test_the_facts_of_the_data_set_are_saved_with_the_model(tmp_path: Path) -> None:
    config = ModelConfig(width=3, depth=2)
    save_model(build_model(config, SPEC), config, SPEC, tmp_path)
    assert load_spec(tmp_path) == SPEC
    assert hash(load_spec(str(tmp_path))) == hash(SPEC)
