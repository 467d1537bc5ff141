"""What a cascade saves, on trained students."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from guard import ArtifactStore, local_runner, run_trial
from guard.config import EvaluationConfig, passes_of
from guard.config.evaluation import SUITES, attacks_at
from guard.data.datasets import load_data
from guard.data.images import ImageSet
from guard.models.networks import Classifier
from guard.models.saving import load_model
from guard.robustness.evaluate import attack_once
from guard.robustness.verdicts import Verdicts
from guard.trial import TrialConfig
from helpers import CPU
from studies.presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SAMPLES = 200
FOLDER = Path(os.environ.get("GUARD_TEST_DATA", "data"))


def whole_chain(
    model: Classifier, images: ImageSet, config: EvaluationConfig
) -> tuple[Verdicts, int]:
    """The verdicts, and all forward and backward passes."""
    verdicts, passes = None, 0
    for part in attacks_at(config):
        verdicts, counted = attack_once(model, images, part, verdicts, config, 10, CPU)
        passes += counted.forward_passes + counted.backward_passes
    assert verdicts is not None
    return verdicts, passes


def everything(names: tuple[str, ...]) -> int:
    """Passes of one sample under every attack that a suite lists, AutoAttack's parts included."""
    members = [SUITES.get(name, (name,)) for name in names]
    return sum(passes_of(name) for group in members for name in group)


@pytest.mark.parametrize("preset", ["digits", "cifar10-small"])
def test_the_papers_suite_costs_at_most_half(
    preset: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    changes: dict[str, object] = {"regularizer": "none", "method": "sre2l", "ipc": 10}
    if preset != "digits":
        if not (FOLDER / "cifar10.npz").is_file():
            pytest.skip("GUARD_TEST_DATA has no cifar10.npz")
        changes |= {
            "data": {"name": "npz", "path": str(FOLDER / "cifar10.npz")},
            "model": {"name": "bn-convnet", "width": 16, "depth": 4},
            "squeeze.epochs": 4,
            "sre2l.iterations": 100,
            "student.train.epochs": 100,
        }
    config: TrialConfig = PRESETS[preset]().config.override(changes)
    result = run_trial(config, local_runner(ArtifactStore(tmp_path)))
    model = load_model(result.paths["student"])
    images = load_data(config.data).test.subset(torch.arange(SAMPLES))
    evaluation = EvaluationConfig(eps=config.evaluation.eps, attacks=("paper",))
    cascade, passes = whole_chain(model, images, evaluation)
    apart = EvaluationConfig(eps=config.evaluation.eps, attacks=("paper",), cascade=False)
    separate, separate_passes = whole_chain(model, images, apart)
    full = SAMPLES * everything(SUITES["paper"])
    record_property(
        "passes: cascade, right samples by each attack, everything", (passes, separate_passes, full)
    )
    assert torch.equal(cascade.robust(evaluation.eps), separate.robust(evaluation.eps))
    assert passes <= 0.5 * full, (passes, separate_passes, full)
