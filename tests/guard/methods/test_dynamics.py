"""The record of a training, and the difficulty of images that is read from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from laboratory import Lab, stages
from safetensors.torch import load_file

from guard.data.datasets import load_data
from guard.methods.rded import Dynamics
from guard.methods.rded.dynamics import difficulties
from guard.models.saving import load_model
from guard.pipeline import local_runner
from guard.stages import Squeeze
from helpers import draws


def test_difficulty_is_the_mean_of_deviations_over_consecutive_epochs() -> None:
    confidences = torch.rand(9, 5, generator=draws())
    over, averaged = 4, 6
    rows = confidences.double().numpy()
    expected = [
        np.mean([np.std(rows[k : k + over, image], ddof=1) for k in range(averaged)])
        for image in range(5)
    ]
    np.testing.assert_allclose(difficulties(confidences, over).numpy(), expected, rtol=1e-12)


def test_an_image_that_is_always_or_never_known_is_easy() -> None:
    known, learned = torch.full((6,), 0.99), torch.linspace(0.1, 0.9, 6)
    easy, hard = difficulties(torch.stack([known, learned], dim=1), 3).tolist()
    assert easy < 1e-12 < hard


def test_the_same_training_is_recorded(lab: Lab) -> None:
    """Its last epoch is the teacher's, whose network gives the same probabilities."""
    (stage,) = stages(lab.config("rded"), "dynamics")
    assert isinstance(stage, Dynamics)
    whole = replace(stage, last=3, epochs=2)
    local_runner(lab.store)(whole)
    confidences = load_file(lab.store.path(whole) / "dynamics.safetensors")["confidences"]
    train = load_data(stage.data).train
    assert confidences.shape == (2, len(train)) and confidences.dtype == torch.float32
    teacher = Squeeze.of(lab.config("rded").shared)
    local_runner(lab.store)(teacher)
    x, y = next(train.batches(len(train), torch.device("cpu")))
    with torch.no_grad():
        shares = load_model(lab.store.path(teacher))(x).softmax(dim=1)
    own = shares[torch.arange(len(y)), y]
    torch.testing.assert_close(confidences[1], own, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(confidences[0], own, atol=1e-3)


def test_a_training_is_recorded_no_longer_than_is_needed(lab: Lab) -> None:
    (stage,) = stages(lab.config("rded"), "dynamics")
    assert isinstance(stage, Dynamics)
    runs = local_runner(lab.store)
    early, late = (replace(stage, last=last, epochs=2) for last in (2, 3))
    runs(early, late)
    first, second = (
        load_file(lab.store.path(own) / "dynamics.safetensors")["confidences"]
        for own in (early, late)
    )
    assert torch.equal(first[1], second[0])
    config = lab.config("rded", **{"rded.budget": None})
    assert stages(config, "dynamics") == []


@pytest.mark.parametrize("penalty", ["curvature", "pgd-at"])
def test_a_regularized_training_is_recorded_too(penalty: str, lab: Lab) -> None:
    config = lab.config("rded", regularizer=penalty)
    plain, regularized = (stages(own, "dynamics")[0] for own in (config.unregularized(), config))
    assert plain.key != regularized.key
    (made,) = local_runner(lab.store)(regularized)
    assert load_file(made.path / "dynamics.safetensors")["confidences"].isfinite().all()
