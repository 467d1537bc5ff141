"""Experts on digits: their snapshots, and sets that are matched to them."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from trajectory_matching import SNAPSHOTS, matching_of

from guard.artifacts import ArtifactStore
from guard.config import RegularizerConfig
from guard.data.datasets import load_data
from guard.distilled import DistilledSet
from guard.methods.mtt.matching import Matching
from guard.methods.mtt.snapshots import Snapshots, Trajectory
from guard.methods.mtt.trajectory import flat_parameters
from guard.methods.start import initial_images
from guard.models.networks import build_model
from guard.models.saving import load_model
from guard.seeding import derive
from guard.training.losses import TrainingLoss
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import CPU, draws

EPOCHS, IPC = 4, 3


def visits(count: int, seed: int = 0) -> list[Tensor]:
    """Where a model with five parameters is at first and after each step."""
    return list(torch.randn(count + 1, 5, generator=draws(seed), dtype=torch.float64))


def kept_of(ema: float, path: list[Tensor], steps_per_epoch: int) -> Snapshots:
    model = nn.Linear(5, 1, bias=False).double()

    def go(theta: Tensor) -> nn.Module:
        nn.utils.vector_to_parameters(theta, model.parameters())
        return model

    snapshots = Snapshots(go(path[0]), ema)
    for step, theta in enumerate(path[1:], 1):
        snapshots.after_step(go(theta))
        if step % steps_per_epoch == 0:
            snapshots.after_epoch(model)
    return snapshots


@pytest.mark.parametrize("a", [0.3, 0.9, 0.999])
def test_the_moving_average_is_its_closed_form(a: float) -> None:
    path = visits(12)
    kept = kept_of(a, path, 4).kept
    assert len(kept) == 4
    for snapshot, n in zip(kept, (0, 4, 8, 12), strict=True):
        expected = a**n * path[0]
        for i in range(1, n + 1):
            expected = expected + (1 - a) * a ** (n - i) * path[i]
        torch.testing.assert_close(snapshot, expected, rtol=1e-10, atol=1e-12)


def test_without_a_moving_average_the_parameters_themselves_are_kept() -> None:
    path = visits(12)
    for snapshot, theta in zip(kept_of(0, path, 4).kept, path[::4], strict=True):
        assert torch.equal(snapshot, theta)


@pytest.mark.parametrize("a", [0.0, 0.8])
def test_distances_are_means_over_the_epochs(a: float) -> None:
    path = visits(6)
    snapshots = kept_of(a, path, 2)
    raw = [math.dist(path[n], path[n + 2]) for n in (0, 2, 4)]
    kept = [math.dist(*snapshots.kept[n : n + 2]) for n in range(3)]
    expected = {"epoch_distance": sum(kept) / 3, "raw_epoch_distance": sum(raw) / 3}
    assert snapshots.metrics() == pytest.approx(expected, rel=1e-9)
    assert (expected["epoch_distance"] == pytest.approx(sum(raw) / 3)) is (a == 0)


def trial(method: str = "mtt", **overrides: Any) -> TrialConfig:
    config = TrialConfig(method=method, ipc=IPC, regularizer=RegularizerConfig.named("none"))
    section = {
        "model": {"name": "convnet", "width": 8, "depth": 2},
        "experts": {
            "count": 2,
            "train": {"epochs": EPOCHS, "batch_size": 128, "lr": 0.1, "momentum": 0},
        },
        "iterations": 2,
        "student_steps": 6,
        "expert_epochs": 2,
        "max_start": 2,
        "rate": 0.05,
        "lr_images": 1.0,
    }
    return config.override({method: section, **overrides})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """store, two experts (stages and artifacts) on digits, the model they start from."""
    store, config = ArtifactStore(tmp_path_factory.mktemp("mtt")), trial()
    stages = config.own.teachers(config.shared)
    artifacts = [store.get_or_build(stage) for stage in stages]
    experts = [Trajectory(artifact.path) for artifact in artifacts]
    model = load_model(artifacts[0].path).train()
    splits = load_data(config.data)
    return SimpleNamespace(
        config=config,
        store=store,
        stages=stages,
        artifacts=artifacts,
        experts=experts,
        model=model,
        splits=splits,
    )


def test_experts_keep_their_parameters_at_first_and_after_every_epoch(
    digits: SimpleNamespace,
) -> None:
    for number, artifact in enumerate(digits.artifacts):
        theta = load_file(artifact.path / SNAPSHOTS)["theta"]
        config, spec = digits.config.mtt.model, digits.splits.spec
        initial = build_model(config, spec, derive(derive(0, "expert", number), "teacher"))
        assert theta.shape == (EPOCHS + 1, len(flat_parameters(initial)))
        assert torch.equal(theta[0], flat_parameters(initial))
        assert torch.equal(theta[-1], flat_parameters(load_model(artifact.path)))
        assert len({float(row.sum()) for row in theta}) == EPOCHS + 1
        assert len(artifact.summary["history"]) == EPOCHS
        distances = (theta[1:] - theta[:-1]).norm(dim=1)
        metrics = artifact.summary["metrics"]
        assert metrics["epoch_distance"] == pytest.approx(float(distances.mean()), rel=1e-5)
        assert metrics["raw_epoch_distance"] == pytest.approx(metrics["epoch_distance"])
        for epoch in range(EPOCHS + 1):
            assert torch.equal(Trajectory(artifact.path).snapshot(epoch, CPU), theta[epoch])


def test_experts_differ_and_repeat(digits: SimpleNamespace, tmp_path: Path) -> None:
    first, second = (artifact.path / SNAPSHOTS for artifact in digits.artifacts)
    assert first.read_bytes() != second.read_bytes()
    again = ArtifactStore(tmp_path).get_or_build(digits.stages[1])
    assert (again.path / SNAPSHOTS).read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"regularizer": "gradient-norm"},
        {"mtt.experts.adversary": "fgsm-rs", "evaluation.eps": 0.1},
        {"mtt.experts.adversary": "fgsm-rs", "evaluation.eps": 0.1, "regularizer": "gradient-norm"},
        {"mtt.experts.ema": 0.9},
    ],
)
def test_experts_are_trained_and_kept_as_the_config_says(
    change: dict[str, Any],
    digits: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same seed, so what differs is the loss, or the average alone."""
    losses: list[TrainingLoss] = []
    original = TrainingLoss.__call__

    def noted(self: TrainingLoss, *args: Any) -> Any:
        losses.append(self)
        return original(self, *args)

    monkeypatch.setattr(TrainingLoss, "__call__", noted)
    config = trial(**{"mtt.experts.train.epochs": 3, **change})
    stage = config.own.teachers(config.shared)[0]
    artifact = ArtifactStore(tmp_path).get_or_build(stage)
    theta = load_file(artifact.path / SNAPSHOTS)["theta"]
    plain = load_file(digits.artifacts[0].path / SNAPSHOTS)["theta"]
    assert torch.equal(theta[0], plain[0])
    assert torch.equal(theta[-1], flat_parameters(load_model(artifact.path)))
    assert not torch.allclose(theta[1], plain[1], rtol=1e-3)
    (loss,) = set(losses)
    assert loss.regularizer.kind == config.regularizer.kind
    assert loss.adversary == config.mtt.experts.adversary
    assert loss.eps == (0.1 if loss.adversary.active else 0)
    if "mtt.experts.ema" in change:
        assert float((theta[1] - plain[0]).norm()) < float((plain[1] - plain[0]).norm())


def test_an_averaged_expert_has_the_statistics_of_its_own_weights(tmp_path: Path) -> None:
    network = {"name": "bn-convnet", "width": 8, "depth": 2}
    train = {"epochs": 6, "batch_size": 32, "lr": 0.05}
    experts = {"count": 1, "ema": 0.9, "train": train}
    config = trial(**{"mtt.experts": experts, "mtt.model": network, "mtt.max_start": 2})
    stage = config.own.teachers(config.shared)[0]
    assert "statistics" in str(stage.description["version"])
    made = load_model(ArtifactStore(tmp_path).get_or_build(stage).path)
    found = copy.deepcopy(made)
    update_bn(load_data(config.data).train.batches(500, CPU), found)
    for name, value in made.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, found.state_dict()[name], rtol=1e-4, atol=1e-5)


def matching_loss(run: Matching, u: Tensor, rate: float) -> float:
    """Mean over experts and starts, with augmentations that no iteration drew."""
    values = []
    for seed, expert in enumerate(run.experts):
        for start in range(run.config.max_start):
            theta, target = (expert.snapshot(epoch, CPU) for epoch in (start, start + 2))
            loss = run.step_loss(run.targets(u, target), draws(1000 + seed))
            steps = run.config.student_steps
            found = run.gradient(loss, theta, target, u, torch.tensor(rate), steps)
            values.append(float(found.loss))
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({}, 0.6),
        ({"gradient": "unroll", "batch_size": 10}, 0.6),
        ({"gradient": "tesla", "soft_labels": True}, 0.95),
    ],
)
def test_matching_brings_students_closer_to_the_experts(
    config: dict[str, Any], share: float, digits: SimpleNamespace
) -> None:
    options = {"iterations": 15, "student_steps": 4, "lr_images": 300.0, "lr_rate": 1e-3}
    section = replace(digits.config.mtt, rate=0.2, **options, **config)
    spec = digits.splits.spec
    run = matching_of(section, digits.model, digits.experts, spec, IPC)
    begin = initial_images("noise", digits.splits, IPC, digits.model.normalize, 0, CPU)
    made = run.run(begin.flatten(0, 1))
    u, rate, metrics = made.u, made.rate, made.metrics
    before = matching_loss(run, begin.flatten(0, 1), section.rate)
    by_images, by_both = matching_loss(run, u, section.rate), matching_loss(run, u, rate)
    assert by_both < by_images < share * before
    assert 0 < rate != section.rate
    assert math.isfinite(metrics["matching_loss"])


@pytest.mark.parametrize("method", ["mtt", "tesla"])
def test_a_stage_writes_pixels_the_rate_and_soft_labels(
    method: str, digits: SimpleNamespace
) -> None:
    config = trial(method, **{f"{method}.init": "real", f"{method}.lr_rate": 1e-3})
    stages = config.own.teachers(config.shared)
    assert stages == digits.stages, "mtt and tesla share their experts"
    (stage,) = config.own.parts(config.shared, stages)
    part = digits.store.get_or_build(stage)
    metrics = part.summary["metrics"]
    assert set(metrics) == {"matching_loss", "learned_lr"}
    distilled = TrialStages.of(config).distilled
    assert distilled is not None and distilled.inputs == {"part-0000": stage}
    whole = digits.store.get_or_build(distilled)
    found = DistilledSet.load(whole.path)
    assert found.images.shape == (10 * IPC, 1, 8, 8)
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert found.card["learned_lr"] == metrics["learned_lr"] != 0.05
    layer = digits.model.normalize
    begin = initial_images("real", digits.splits, IPC, layer, config.seed, CPU)
    real = layer.inverse(begin.flatten(0, 1)).view_as(begin).transpose(0, 1).flatten(0, 1)
    assert not torch.equal(found.images, real)
    closest = (found.images[:, None] - real[None]).flatten(2).norm(dim=2).argmin(dim=1)
    assert closest.tolist() == list(range(10 * IPC))
    if method == "mtt":
        assert found.soft_labels is None
        return
    run = matching_of(config.tesla, digits.model, digits.experts, digits.splits.spec, IPC)
    assert found.soft_labels is not None
    torch.testing.assert_close(
        found.soft_labels, run.mean_labels(layer(found.images)), rtol=1e-4, atol=1e-6
    )
