"""Sets that somebody made, as a method: what of them reaches a student, and what a trial is."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laboratory import CLASSES, IPC, Lab, keys
from safetensors.torch import load_file

from guard.artifacts import ArtifactStore
from guard.config.training import PORTABLE
from guard.data.datasets import load_data
from guard.distilled import DistilledSet
from guard.errors import ConfigError, DataError
from guard.methods.given.reading import facts_of
from guard.pipeline import local_runner, run_trial
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import draws

SOFT = torch.randn(CLASSES * IPC, CLASSES, generator=draws()).softmax(dim=1)


def given(lab: Lab, place: Path, **changes: Any) -> TrialConfig:
    """A trial of the set at a place."""
    config = lab.config("given", **{"given": {"path": str(place)}, **changes})
    facts = facts_of(str(place), place, load_data(config.data).spec)
    return config.override({"given.known": [facts], **changes})


def product(lab: Lab, place: Path, **changes: Any) -> DistilledSet:
    """A set of ours, with what else it may hold."""
    made = dataclasses.replace(lab.made(lab.config("given")), **changes)
    place.mkdir()
    made.save(place)
    return made


@pytest.mark.parametrize("form", ["npz", "pt", "tree", "product"])
def test_the_images_of_any_form_are_those_of_the_set(form: str, lab: Lab, tmp_path: Path) -> None:
    made = lab.made(lab.config("given"))
    place = tmp_path / f"set.{form}"
    if form == "npz":
        levels = (made.images * 255).round().byte().numpy()
        np.savez(place, images=levels, labels=made.labels.numpy())
    elif form == "pt":
        torch.save((made.images, made.labels), place)
    elif form == "tree":
        made.export(place)
    else:
        product(lab, place)
    config = given(lab, place)
    again = lab.made(config)
    assert torch.equal(again.images, made.images) and torch.equal(again.labels, made.labels)
    assert lab.run(config).metrics == lab.run(lab.config("given")).metrics
    assert (again.card["method"], again.card["ipc"], config.ipc) == ("given", IPC, IPC)


def test_its_own_probabilities_are_what_a_student_learns(lab: Lab, tmp_path: Path) -> None:
    made = product(lab, tmp_path / "set", soft_labels=SOFT)
    config = given(lab, tmp_path / "set")
    found = lab.made(config)
    assert config.own.learns_labels and found.soft_labels is not None
    torch.testing.assert_close(found.soft_labels, SOFT, rtol=0, atol=0)
    assert torch.equal(found.images, made.images)
    hard = config.override({"student.labels": "hard"})
    weights = [
        load_file(lab.run(own).paths["student"] / "model.safetensors") for own in (config, hard)
    ]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("kind", PORTABLE)
def test_a_teachers_labels_in_its_folder_need_no_teacher(
    kind: str, lab: Lab, tmp_path: Path
) -> None:
    taught = lab.config("given", **{"student.labels": kind, "student.budget": 5})
    first = lab.run(taught)
    shutil.copytree(first.paths["distilled"], tmp_path / "set")
    config = given(lab, tmp_path / "set")
    assert config.given.facts is not None and config.given.facts.labels == kind
    assert not [stage for stage in keys(config) if stage in keys(taught, "squeeze")]
    assert lab.run(config).metrics["test/clean_accuracy"] == first.metrics["test/clean_accuracy"]
    ours, theirs = (lab.made(own).portable for own in (config, taught))
    assert ours is not None and theirs is not None and torch.equal(ours.logits, theirs.logits)


def test_a_rate_in_its_card_is_trained_at(lab: Lab, tmp_path: Path) -> None:
    product(lab, tmp_path / "set", card={"learned_lr": 0.03125})
    rate = {"student.learned_lr": True, "student.train.schedule": "constant"}
    config = given(lab, tmp_path / "set").override(rate)
    lab.run(config)
    summary, _ = lab.built(TrialStages.of(config).student)
    assert {epoch["lr"] for epoch in summary["history"]} == {0.03125}
    with pytest.raises(ConfigError, match=r"^student\.learned_lr: given learns no learning rate"):
        lab.config("given", **rate)


@pytest.mark.parametrize("rate", [-0.1, 0, "fast", None, float("inf")])
def test_a_rate_that_nobody_can_train_at_is_refused(rate: Any, lab: Lab, tmp_path: Path) -> None:
    product(lab, tmp_path / "set", card={"learned_lr": rate})
    rule = r"card\.json: learned_lr must be above 0 and finite, got"
    with pytest.raises(DataError, match=rule):
        given(lab, tmp_path / "set")


def test_images_that_are_several_stay_so(lab: Lab, tmp_path: Path) -> None:
    product(lab, tmp_path / "set", card={"partition": 2})
    config = given(lab, tmp_path / "set")
    found = lab.made(config)
    assert found.partition == 2 and len(found.expanded().images) == 4 * CLASSES * IPC
    assert TrialStages.of(config).parts[0].partition == 2


def test_its_content_decides_what_a_trial_is_and_not_its_place(lab: Lab, tmp_path: Path) -> None:
    place = Path(lab.config("given").given.known[0].place)
    shutil.copy(place, tmp_path / "moved.npz")
    first, moved = lab.config("given"), given(lab, tmp_path / "moved.npz")
    assert moved.fingerprint() == first.fingerprint() and keys(moved) == keys(first)
    assert moved.given.path != first.given.path
    with np.load(place) as own:
        np.savez(tmp_path / "other.npz", images=own["images"][::-1], labels=own["labels"][::-1])
    other = given(lab, tmp_path / "other.npz")
    assert other.fingerprint() != first.fingerprint() and not set(keys(other)) & set(keys(first))


def test_it_has_the_images_per_class_that_it_has(lab: Lab) -> None:
    config = lab.config("given", ipc=IPC + 5)
    assert config.ipc == IPC and keys(config) == keys(lab.config("given"))
    unknown = config.override({"given.known": [], "given.path": config.given.known[0].place})
    with pytest.raises(DataError, match=rf"^ipc: .*given\.npz has {IPC} images per class, got 9"):
        run_trial(unknown.override({"ipc": 9}), local_runner(ArtifactStore(lab.store.root)))


def test_what_is_not_what_it_was_is_refused(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "set.npz"
    shutil.copy(lab.config("given").given.known[0].place, place)
    config = given(lab, place)
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"set\.npz: is not what it was when the study began$"):
        run_trial(config, local_runner(ArtifactStore(tmp_path / "store")))
    nameless = lab.config("given").override({"given": {}})
    with pytest.raises(DataError, match=r"^given\.path: names no set$"):
        run_trial(nameless, local_runner(ArtifactStore(tmp_path / "store")))


def test_a_set_without_labels_of_its_own_has_none(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"^student\.labels: own: given learns no labels here"):
        lab.config("given", **{"student.labels": "own"})
