"""Penalties a piece of the batch at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from penalised import KINDS, bn_net, samples, smooth_net
from safetensors.torch import load_file
from torch import Tensor

from guard.artifacts import Artifact, ArtifactStore
from guard.config import RegularizerConfig
from guard.training import penalties
from guard.training.losses import TrainingLoss
from guard.training.penalties import Penalty, Regularizer, SampleLosses
from guard.training.pieces import in_pieces, within_memory
from guard.trial import TrialConfig
from helpers import draws

TEACHER: dict[str, Any] = {
    "model": {"width": 8, "depth": 2},
    "squeeze": {"epochs": 2, "optimizer": "adamw", "lr": 0.02, "batch_size": 64},
    "regularizer": {"kind": "curvature", "weight": 0.3, "fraction": 0.25},
}


def step(net: Any, config: RegularizerConfig, pieces: int) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of a training step."""
    model, (x, y) = net().train(), samples(9)
    loss, _ = TrainingLoss(config, 0.1, pieces=pieces)(model, x, y, 0, draws())
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("pieces", [2, 4, 50])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("bn", ["eval", "frozen-batch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", [bn_net, smooth_net])
def test_pieces_have_the_same_loss_and_gradient(
    net: Any, kind: str, bn: str, fraction: float, pieces: int
) -> None:
    settings = {"kind": kind, "weight": 0.7, "h": 0.4, "bn": bn, "fraction": fraction}
    config = RegularizerConfig.from_dict(settings)
    loss, gradients = step(net, config, pieces)
    expected, whole = step(net, config, 1)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for ours, theirs in zip(gradients, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_gradients_of_a_mean_batch_keep_the_batchs_size() -> None:
    config = RegularizerConfig(weight=1.0, scale="batch-mean", fraction=0.5)
    for ours, theirs in zip(step(bn_net, config, 3)[1], step(bn_net, config, 1)[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "has_batchnorm", "expected"),
    [
        ({}, True, True),
        ({"bn": "train"}, True, False),
        ({"bn": "train"}, False, True),
        ({"kind": "loss-difference"}, True, True),
        ({"kind": "loss-difference", "scale": "batch-mean"}, True, False),
        ({"kind": "gradient-norm", "scale": "batch-mean"}, True, True),
        ({"kind": "adversarial"}, True, False),
        ({"kind": "none"}, True, False),
    ],
)
def test_what_couples_samples_is_not_split(
    settings: dict[str, Any], has_batchnorm: bool, expected: bool
) -> None:
    penalty = Regularizer(RegularizerConfig.from_dict(settings))
    assert penalty.splits(has_batchnorm=has_batchnorm) is expected


def test_a_parameter_that_has_no_part_in_it_gets_nothing() -> None:
    used, idle = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x, y = torch.arange(6.0, dtype=torch.float64)[:, None], torch.zeros(6)
    value = in_pieces(lambda x, y: (x * used).mean(), [used, idle], x, y, 4)
    by_used, by_idle = torch.autograd.grad(3 * value, [used, idle])
    assert by_idle.tolist() == [0, 0]
    torch.testing.assert_close(by_used, torch.autograd.grad(3 * (x * used).mean(), used)[0])


@pytest.mark.parametrize(
    ("needed", "most", "tried"), [(1, 8, [1]), (3, 8, [1, 2, 4]), (6, 6, [1, 2, 4, 6])]
)
def test_more_pieces_are_tried_until_they_fit(needed: int, most: int, tried: list[int]) -> None:
    counts = []

    def run(count: int) -> int:
        counts.append(count)
        if count < needed:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return count

    assert within_memory(run, most) == tried[-1]
    assert counts == tried


def test_what_fits_in_no_pieces_is_an_error() -> None:
    def run(count: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory(run, 4)


def limited(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A device that holds the graphs of so many images."""
    whole = penalties.PENALTIES["curvature"]

    def curvature(losses: SampleLosses, x: Tensor, h: float, config: RegularizerConfig) -> Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(losses, x, h, config)

    row: dict[str, Penalty] = {"curvature": curvature}
    monkeypatch.setattr(penalties, "PENALTIES", {**penalties.PENALTIES, **row})


def teacher(folder: Path, settings: dict[str, Any]) -> Artifact:
    config = TrialConfig().override(TEACHER).override(settings)
    return ArtifactStore(folder).get_or_build(config.own.teachers(config.shared)[0])


EXPERT = {
    "method": "mtt",
    "model": {"name": "convnet", "width": 8, "depth": 2},
    "mtt.expert_epochs": 1,
    "mtt.max_start": 1,
    "mtt.experts.count": 1,
    "mtt.experts.train": {"epochs": 2, "lr": 0.1, "momentum": 0.9, "batch_size": 64},
}


@pytest.mark.parametrize("settings", [{}, EXPERT], ids=["teacher", "expert"])
def test_a_network_is_trained_in_as_many_pieces_as_fit(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = teacher(tmp_path / "whole", settings)
    assert "penalty_pieces" not in expected.summary["metrics"]
    limited(monkeypatch, 5)
    found = teacher(tmp_path / "pieces", settings)
    assert found.summary["metrics"]["penalty_pieces"] == 4  # of 16 images
    ours, theirs = (load_file(a.path / "model.safetensors") for a in (found, expected))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-3)


def test_a_penalty_that_cannot_be_split_fails_where_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 5)
    with pytest.raises(torch.OutOfMemoryError):
        teacher(tmp_path, {"regularizer.bn": "train"})
