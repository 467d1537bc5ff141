"""Shared by the tests of guard: one tiny finished trial on digits, one classifier to attack."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from builders import TINY
from guard.artifacts import ArtifactStore
from guard.data.images import TensorImages
from guard.models.input_layer import Normalize
from guard.models.networks import Classifier
from guard.pipeline import local_runner, run_trial
from guard.seeding import fenced
from guard.trial import TrialConfig
from helpers import draws

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_config() -> TrialConfig:
    return TrialConfig().override(TINY)


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory, tiny_config: TrialConfig) -> SimpleNamespace:
    """config, store, result, reports of a trial, and torch's global random state around it."""
    store = ArtifactStore(tmp_path_factory.mktemp("trial"))
    reports: list[tuple[str, dict[str, float]]] = []
    before = torch.get_rng_state()
    result = run_trial(
        tiny_config, local_runner(store), lambda part, metrics: reports.append((part, metrics))
    )
    return SimpleNamespace(
        config=tiny_config,
        store=store,
        result=result,
        reports=reports,
        random_states=(before, torch.get_rng_state()),
    )


@pytest.fixture(scope="session")
def victim() -> SimpleNamespace:
    """A small classifier of five classes to attack: model, images (TensorImages), x, y, eps.

    Two of the 24 labels are wrong on purpose."""
    generator = draws()
    prototypes = torch.rand(5, 1, 6, 6, generator=generator)
    y = torch.arange(24) % 5
    pixels = 0.3 + 0.2 * prototypes[y] + 0.2 * torch.rand(24, 1, 6, 6, generator=generator)
    pixels[..., :2, :] = pixels[..., :2, :].gt(0.5).float()
    images = TensorImages((pixels * 255).round().byte(), y.clone())
    x = images.x.float() / 255
    with fenced(0):
        layers = [nn.Flatten(), nn.Linear(36, 16), nn.Softplus(), nn.Linear(16, 5)]
        model = Classifier(Normalize((0.5,), (0.25,)), nn.Sequential(*layers))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    images.y[:2] = (y[:2] + 1) % 5
    optimizer.zero_grad()
    return SimpleNamespace(model=model.eval(), images=images, x=x, y=images.y, eps=0.09)
