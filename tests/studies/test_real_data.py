"""The claims on real images. All slow; the larger sets are read from $GUARD_TEST_DATA."""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard.artifacts import ArtifactStore
from guard.data.datasets import resolve
from guard.pipeline import TrialResult, local_runner, run_trial
from guard.trial import TrialConfig
from studies.presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SHORT = {
    "model": {"name": "bn-convnet", "width": 16, "depth": 4},
    "squeeze.epochs": 4,
    "squeeze.warmup_epochs": 0,
    "squeeze.batch_size": 64,
    "regularizer.weight_warmup_epochs": 2,
    "sre2l.iterations": 30,
    "sre2l.chunk": 2,
    "ipc": 2,
    "student.train.epochs": 10,
    "student.train.warmup_epochs": 0,
    "evaluation.attacks": ["pgd5"],
    "evaluation.max_samples": 200,
}
RESNET = {
    "model": {"name": "resnet18"},
    "squeeze.epochs": 1,
    "squeeze.lr": 0.02,
    "regularizer.weight": 0.01,
    "regularizer.weight_warmup_epochs": 0,
    "evaluation.max_samples": 100,
    "compute.num_threads": 2,
}


def place(name: str) -> Path:
    root = os.environ.get("GUARD_TEST_DATA")
    if root is None or not (Path(root) / name).exists():
        pytest.skip(f"GUARD_TEST_DATA has no {name}")
    return Path(root) / name


def trial(config: TrialConfig, store: Path) -> TrialResult:
    resolved = config.override({"data": resolve(config.data).to_dict()})
    return run_trial(resolved, local_runner(ArtifactStore(store)))


@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_buys_digits_15_points_for_at_most_3(seed: int, tmp_path: Path) -> None:
    config = PRESETS["digits"]().config.override({"seed": seed, "student.seed": seed, "ipc": 10})
    with_penalty = trial(config, tmp_path).metrics
    without = trial(config.unregularized(), tmp_path).metrics
    robust, clean = "test/robust_accuracy", "test/clean_accuracy"
    assert with_penalty[robust] >= without[robust] + 0.15
    assert with_penalty[clean] >= without[clean] - 0.03


@pytest.mark.parametrize(
    ("preset", "name", "changes"),
    [
        ("cifar10", "cifar10.npz", {}),
        ("cifar10", "cifar10.npz", RESNET),
        ("fashion-mnist", "fashion-mnist", {"squeeze.epochs": 2}),
        ("imagenette", "imagenette", {"data.image_size": 64}),
        ("imagenette", "imagenette", {"data.image_size": 32, "data.max_tensor_gib": 0}),
        ("tiny-imagenet", "tiny-imagenet", {}),
    ],
)
def test_a_trial_runs_on_every_kind_of_data(
    preset: str, name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    values = {**SHORT, "data.path": str(place(name)), **changes}
    result = trial(PRESETS[preset]().config.override(values), tmp_path)
    assert result.status == "complete", result.reason
    assert result.metrics["teacher/clean_accuracy"] > 0.15
    assert result.metrics["test/robust_accuracy"] <= result.metrics["test/clean_accuracy"]


def test_studies_of_a_folder_of_photos_run_end_to_end(
    quick: Callable[..., list[str]], tmp_path: Path
) -> None:
    """At one and at ten images a class."""
    where = ["--preset", "imagenette-small", "--data", str(place("imagenette"))]
    for study in ("gallery", "compare"):
        command = quick(study, tmp_path, *where, "--seeds", "1", "--set", "ipc=choice(1, 10)")
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        with (tmp_path / study / "comparison.csv").open(newline="") as file:
            assert {row["ipc"] for row in csv.DictReader(file)} >= {"1", "10"}
        assert (tmp_path / study / "report.html").is_file()
    assert {"sre2l-ipc-1.png", "sre2l-ipc-10.png"} <= set(os.listdir(tmp_path / "gallery"))
