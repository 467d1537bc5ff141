"""Looks at a teacher before its training is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from guard.artifacts import Artifact, ArtifactStore
from guard.checkpoint import Checkpoint
from guard.data.datasets import load_data
from guard.models.networks import Classifier
from guard.models.saving import load_model
from guard.pipeline import local_runner, run_trial
from guard.stages import EarlySqueeze, Squeeze
from guard.training import looks
from guard.training.looks import LastEpoch
from guard.training.teacher import STATE
from guard.trial import TrialConfig
from guard.trial_stages import Leg, TrialStages, plan

CHANGES: dict[str, Any] = {
    "model": {"name": "bn-convnet", "width": 8, "depth": 2},
    "squeeze": {"epochs": 4, "batch_size": 128, "optimizer": "adamw", "lr": 0.01},
    "regularizer": {"weight": 0.1, "fraction": 0.25},
}


def teacher(**changes: Any) -> Squeeze:
    stage = plan(TrialConfig().override({**CHANGES, **changes}))[0]
    assert isinstance(stage, Squeeze)
    return stage


def weights(made: Artifact) -> dict[str, torch.Tensor]:
    return load_file(made.path / "model.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The teacher, trained in one go."""
    return ArtifactStore(tmp_path_factory.mktemp("straight")).get_or_build(teacher())


def test_a_teacher_that_was_looked_at_ends_in_the_same_bytes(
    straight: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stage = ArtifactStore(tmp_path), teacher()
    for look in stage.looks:
        store.get_or_build(look)
    trained: list[int] = []
    offer = Checkpoint.offer

    def noted(self: Checkpoint, parts: Any, progress: Any) -> None:
        trained.append(len(progress))
        offer(self, parts, progress)

    monkeypatch.setattr(Checkpoint, "offer", noted)
    found = store.get_or_build(stage)
    assert trained == [3, 4], "the first half is not trained twice"
    assert (found.path / "model.safetensors").read_bytes() == (
        straight.path / "model.safetensors"
    ).read_bytes()
    assert found.summary == straight.summary


def test_a_damaged_look_is_not_gone_on_from(straight: Artifact, tmp_path: Path) -> None:
    store, stage = ArtifactStore(tmp_path), teacher()
    state = next((store.get_or_build(stage.looks[0]).path / STATE).glob("*.pt"))
    state.write_bytes(state.read_bytes()[:-1])
    found = store.get_or_build(stage)
    assert {k: v.tolist() for k, v in weights(found).items()} == {
        k: v.tolist() for k, v in weights(straight).items()
    }


def test_the_last_epoch_is_averaged_and_none_before_it() -> None:
    model = Classifier(nn.Identity(), nn.Linear(2, 2))
    last, kept = LastEpoch(model, epochs=2), []
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(step))
        last.after_step(model)
        kept.append(step)
        if step in (2, 5):
            last.after_epoch(model)
    average = LastEpoch(model, epochs=2)
    average.load_state_dict(last.state_dict())
    for own in (last, average):
        found = own._average.module.state_dict().values()
        assert all(torch.all(value == 4.0) for value in found)


def test_a_look_has_the_statistics_of_its_own_weights(tmp_path: Path) -> None:
    """One pass over all images in evaluation mode is the pass in training mode."""
    store, stage = ArtifactStore(tmp_path), teacher().looks[0]
    model = load_model(store.get_or_build(stage).path)
    images = load_data(stage.data).train
    batches = list(images.batches(looks.BATCH, torch.device("cpu")))
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for x, _ in batches:
            model(x)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in seen]).mean(dim=0)
    torch.testing.assert_close(first.running_mean, means, rtol=1e-4, atol=1e-5)


def test_a_look_killed_at_its_end_is_the_same(tmp_path: Path) -> None:
    """All of its epochs are done, and kept; what is left is to save."""
    stage = teacher().looks[0]
    whole = ArtifactStore(tmp_path / "whole")
    expected = weights(whole.get_or_build(stage))
    store = ArtifactStore(tmp_path / "killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guard.checkpoint.EVERY_S", 0.0)
        patch.setattr(looks.LastEpoch, "into", lambda *given: 1 / 0)
        patch.setattr(Path, "rename", lambda *given: None)  # the state stays where it was
        with pytest.raises(ZeroDivisionError):
            store.get_or_build(stage)
    found = weights(store.get_or_build(stage))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("epochs", [1, 2, 3, 20])
def test_looks_come_before_the_end(epochs: int) -> None:
    stage = teacher(**{"squeeze.epochs": epochs})
    assert [look.until for look in stage.looks] == ([] if epochs == 1 else [round(epochs / 2)])
    assert all(isinstance(look, EarlySqueeze) and look.looks == [] for look in stage.looks)


def test_a_leg_stops_at_its_rung_and_the_next_goes_on(tmp_path: Path) -> None:
    config = TrialConfig().override({**CHANGES, "evaluation.diagnose": False, "ipc": 1})
    run_stage = local_runner(ArtifactStore(tmp_path))
    first = run_trial(config, run_stage, leg=Leg(looks=1, whole=False))
    assert (first.status, first.reason) == ("stopped", "at rung 1 of 2")
    assert set(first.metrics) == {"rung-1/clean_accuracy", "rung-1/robust_accuracy"}
    second = run_trial(config, run_stage, leg=Leg(looks=2, whole=False))
    built = {record.name for record in second.stages if record.built}
    assert built == {"squeeze", "evaluate"}
    teacher_check = TrialStages.of(config).rungs[-1][-1]
    assert teacher_check.model.address in {f"{s.name}/{s.key}" for s in second.stages}
    assert second.metrics["rung-2/clean_accuracy"] > 0


def test_a_trial_without_a_teacher_has_no_rungs() -> None:
    config = TrialConfig().override({"method": "random", "regularizer": "none"})
    assert TrialStages.of(config).rungs == []
