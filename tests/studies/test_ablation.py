"""Every arm of the ablation trains with a penalty that reaches the network's parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from builders import judged
from guard.config import ModelConfig
from guard.data.spec import ImageSpec
from guard.models.networks import build_model
from guard.training.penalties import Regularizer
from guard.trial import TrialConfig
from pages import runs_of, told, write_about
from studies import ablation
from studies.design.about import About
from studies.presets import PRESETS
from tune.results.folder import StudyFolder

SPEC = ImageSpec(
    channels=1,
    image_size=8,
    num_classes=10,
    mean=(0.3,),
    std=(0.35,),
    class_names=tuple("0123456789"),
)
PRESET = PRESETS["digits"]()
EPOCH = 10
"""After the warm-up of λ."""


def arms() -> list[TrialConfig]:
    design = ablation.design(PRESET)
    configs = [run.config for run in design.runs(PRESET.config.override(design.settings), 1)]
    return [config for config in configs if config.regularizer.active]


def gradient(config: TrialConfig) -> tuple[Tensor, float, float]:
    """Of the penalty in the parameters, (P,); its slope along that, and by finite differences."""
    model = build_model(ModelConfig(name="bn-convnet", width=4, depth=2), SPEC, seed=1).double()
    draws = torch.Generator().manual_seed(2)
    x = torch.rand(16, 1, 8, 8, generator=draws, dtype=torch.float64)
    y = torch.randint(10, (16,), generator=draws)
    parameters, start = list(model.parameters()), parameters_to_vector(model.parameters()).detach()

    def penalty(at: Tensor) -> Tensor:
        vector_to_parameters(at, parameters)
        own = Regularizer(config.regularizer, config.evaluation.eps)
        return own(model, x, y, EPOCH, torch.Generator().manual_seed(3))

    own = torch.autograd.grad(penalty(start), parameters, materialize_grads=True)
    flat = torch.cat([part.flatten() for part in own])
    step = 1e-6 / flat.norm()
    along = [float(penalty(start + sign * step * flat).detach()) for sign in (1, -1)]
    return flat, float(flat.norm()), (along[0] - along[1]) / 2e-6


@pytest.mark.parametrize("config", arms(), ids=lambda config: config.fingerprint()[:8])
def test_the_penalty_of_an_arm_has_a_gradient(config: TrialConfig) -> None:
    flat, slope, measured = gradient(config)
    assert flat.isfinite().all() and slope > 0
    if config.regularizer.kind == "gradient-norm":
        assert measured == pytest.approx(slope, rel=1e-2)


def test_the_gradient_penalty_grows_with_its_weight() -> None:
    found = {
        config.regularizer.weight: gradient(config)[0]
        for config in arms()
        if config.regularizer.kind == "gradient-norm"
    }
    assert list(found) == list(ablation.GRADIENT_WEIGHTS)
    for weight, own in found.items():
        torch.testing.assert_close(own, weight * found[1.0], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["digits", "cifar10-small", "cifar10"])
def test_batchnorm_is_treated_as_in_the_preset_and_otherwise(name: str) -> None:
    preset = PRESETS[name]()
    design, own = ablation.design(preset), preset.config.regularizer
    runs = design.runs(preset.config.override(design.settings), 1)
    penalties = [run.config.regularizer for run in runs]
    assert replace(own, bn="eval") in penalties and replace(own, bn="train") in penalties


def test_an_ablation_holds_its_arms_against_the_preset_s_penalty(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    write_about(folder, About(study="ablation", command="again"))
    for run in runs_of(ablation.STUDY, 2):
        is_plain = not run.control and set(run.params) == {"seed"}
        folder.write(judged(tmp_path, run, 0.9, 0.6 if is_plain else 0.5))
    header, *rows = told(folder).rows("details")
    assert header == ["configuration", "Δ clean", "Δ robust"]
    assert len(rows) == 13 and "curvature (λ = 0.3, h = 0.1)" not in [row[0] for row in rows]
    for _, clean, robust in rows:
        assert clean == "+0.0 [-1.8, +1.8]" and robust.startswith("-10.0 [-1")
