"""Networks that are kept on the way through their training."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.checkpoint import Checkpoint
from guard.config import DataConfig, ModelConfig
from guard.data.datasets import load_data
from guard.models.networks import Classifier, build_model
from guard.training.kept import OnTheWay

EPOCHS = 3


def network() -> Classifier:
    return build_model(
        ModelConfig(name="bn-convnet", width=4, depth=2), load_data(DataConfig()).spec
    )


def trained(folder: Path) -> OnTheWay:
    """Goes on from what there is, to the end of the training."""
    checkpoint = Checkpoint(folder, every_s=0)
    kept = OnTheWay(EPOCHS, checkpoint)
    begun = checkpoint.restore({"kept": kept}) or 0
    for epoch in range(begun, EPOCHS):
        kept.note(network())
        checkpoint.save({"kept": kept}, epoch + 1)
    return kept


def test_each_is_there_in_the_end(tmp_path: Path) -> None:
    trained(tmp_path / "scratch").copy_to(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == EPOCHS


def test_a_training_that_has_lost_one_begins_anew(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    kept = trained(scratch)
    next(scratch.glob("*epoch*1*")).write_bytes(b"cut off")
    with pytest.raises(OSError, match="the network that was kept is lost"):
        kept.copy_to(tmp_path)
    trained(scratch).copy_to(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == EPOCHS
