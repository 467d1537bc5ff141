"""A teacher that two processes train together is the one that one process trains, to rounding."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guard import checkpoint
from guard.artifacts import Artifact, ArtifactStore
from guard.checkpoint import Checkpoint
from guard.group import Group
from guard.processes import in_processes
from guard.stages import Squeeze
from guard.training.teacher import squeeze_together
from guard.trial import TrialConfig

TEACHER: dict[str, Any] = {
    "model": {"width": 8, "depth": 2},
    "squeeze": {"epochs": 3, "lr": 0.02, "batch_size": 97, "augment": ["crop"], "processes": 2},
    "regularizer": {"kind": "curvature", "weight": 0.3, "fraction": 0.25},
}
DONE = 2


def stage(**settings: Any) -> Squeeze:
    config = TrialConfig().override(TEACHER).override(settings)
    return Squeeze.of(config.shared)


def curve(made: Artifact) -> torch.Tensor:
    return torch.tensor([[row["loss"], row["accuracy"]] for row in made.summary["history"]])


def weights(made: Artifact) -> torch.Tensor:
    state = load_file(made.path / "model.safetensors")
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_the_curve_is_that_of_one_process(tmp_path: Path) -> None:
    """With the penalty, ragged batches and the epochs' augmentation."""
    store = ArtifactStore(tmp_path)
    alone, together = (
        store.get_or_build(stage(**{"squeeze.processes": count})) for count in (1, 2)
    )
    assert alone.path != together.path
    torch.testing.assert_close(curve(together), curve(alone), rtol=2e-3, atol=0)
    assert relative(weights(together), weights(alone)) < 1e-2
    assert not torch.equal(weights(together), weights(alone))


def test_what_an_address_says_of_processes() -> None:
    """Their number, and BatchNorm where there are several and the network has one."""
    alone, together = stage(**{"squeeze.processes": 1}), stage()
    local = {"squeeze.batchnorm": "local"}
    assert together.address != alone.address
    assert stage(**local).address != together.address
    assert stage(**local, **{"squeeze.processes": 1}).address == alone.address
    plain: dict[str, Any] = {"model.name": "convnet", "method": "dc", "regularizer": "none"}
    assert stage(**local, **plain).address == stage(**plain).address
    assert {look.train.processes for look in together.looks} == {2}


@pytest.mark.slow
def test_a_squeeze_goes_on_from_a_look_at_it_to_the_same_bytes(tmp_path: Path) -> None:
    own, store = stage(), ArtifactStore(tmp_path / "looked")
    (look,) = own.looks
    averaged = store.get_or_build(look)
    assert len(averaged.summary["history"]) == look.until
    alone = stage(**{"squeeze.processes": 1}).looks[0]
    assert relative(weights(averaged), weights(store.get_or_build(alone))) < 1e-3
    undisturbed = ArtifactStore(tmp_path / "calm")
    files = [kept.get_or_build(own).path / "model.safetensors" for kept in (store, undisturbed)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", ["synchronized", "local"])
def test_the_same_config_gives_the_same_bytes(tmp_path: Path, batchnorm: str) -> None:
    own = stage(**{"squeeze.batchnorm": batchnorm})
    first, again = (ArtifactStore(tmp_path / name).get_or_build(own) for name in "ab")
    files = [(made.path / "model.safetensors").read_bytes() for made in (first, again)]
    assert files[0] == files[1]
    assert curve(first).tolist() == curve(again).tolist()


def ended_early(own: Squeeze, store: ArtifactStore, folder: Path, group: Group) -> None:
    """`squeeze_together` until an epoch is kept, and then an error in the second process."""
    checkpoint.EVERY_S = 0.0
    usual = Checkpoint.offer

    def offer(self: Checkpoint, parts: Any, progress: Any) -> None:
        usual(self, parts, progress)
        if len(progress) == DONE:
            raise ValueError(f"ended in process {group.rank}")

    Checkpoint.offer = offer  # type: ignore[method-assign]
    squeeze_together(own, store, folder, 1, group)


@pytest.mark.slow
def test_what_is_kept_is_gone_on_from_to_the_same_bytes(tmp_path: Path) -> None:
    own = stage()
    store = ArtifactStore(tmp_path / "ended")
    with pytest.raises(ValueError, match="ended in process"):
        in_processes(partial(ended_early, own, store, tmp_path), 2, "cpu")
    (kept,) = store.scratch(own).glob("*.pt")
    assert len(torch.load(kept, weights_only=True)["progress"]) == DONE
    went_on, undisturbed = store.get_or_build(own), ArtifactStore(tmp_path / "calm")
    files = [went_on.path, undisturbed.get_or_build(own).path]
    assert len({(path / "model.safetensors").read_bytes() for path in files}) == 1


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result_of_all(tmp_path: Path) -> None:
    made = ArtifactStore(tmp_path).get_or_build(stage(**{"squeeze.lr": 1e30}))
    assert "the training loss became" in made.summary["diverged"]
