from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from guard.artifacts import ArtifactStore
from guard.distilled import DistilledSet
from guard.errors import ConfigError, DataError
from guard.models.modes import own_statistics
from guard.models.saving import load_model
from guard.pipeline import local_runner, run_trial
from guard.training.recipe import pool_order
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages

BUDGET = {"student.labels": "budget", "student.budget": 5}
FIXED = {"student.labels": "fixed"}


def made(trial: SimpleNamespace, root: Path, changes: dict[str, Any]) -> SimpleNamespace:
    """The set of a trial like the finished one, made from its images and its teacher."""
    config, store = trial.config.override(changes), ArtifactStore(root)
    stages = TrialStages.of(config)
    assert stages.distilled is not None
    for needed in stages.distilled.inputs.values():
        if trial.store.path(needed).is_dir():
            shutil.copytree(trial.store.path(needed), store.path(needed))
    (artifact,) = local_runner(store)(stages.distilled)
    found = DistilledSet.load(artifact.path)
    return SimpleNamespace(config=config, store=store, stages=stages, set=found, path=artifact.path)


def teacher(trial: SimpleNamespace) -> Any:
    return load_model(trial.result.paths["teacher"])


@torch.no_grad()
def test_fixed_labels_are_the_teachers_logits_of_the_images(
    trial: SimpleNamespace, tmp_path: Path
) -> None:
    found = made(trial, tmp_path, FIXED).set
    expected = teacher(trial)(found.images)
    torch.testing.assert_close(found.portable.logits.float(), expected, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_batch_mode_normalises_by_the_batch_that_is_labelled(
    trial: SimpleNamespace, tmp_path: Path
) -> None:
    found = made(trial, tmp_path, {**FIXED, "labels.bn": "batch"}).set
    model = teacher(trial)
    with own_statistics(model):
        expected = torch.cat([model(x) for x in found.images.split(7)])
    torch.testing.assert_close(found.portable.logits.float(), expected, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(expected, model(found.images), atol=0.1)


@torch.no_grad()
def test_a_pool_holds_the_teachers_logits_of_the_batches_that_it_replays(
    trial: SimpleNamespace, tmp_path: Path
) -> None:
    found = made(trial, tmp_path, BUDGET).set
    model, seen = teacher(trial), []
    for epoch in range(5):
        replayed = found.portable.batches(found.images, found.one_hot(), found.spec, epoch)
        for x, logits, target in replayed:
            torch.testing.assert_close(model(x), logits, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(target.sum(dim=1), torch.ones(len(x)))
            seen.append(tuple(logits.flatten().tolist()))
    assert len(seen) == 15 and set(Counter(seen).values()) == {3}
    assert len(set(seen[:5])) == len(set(seen[5:10])) == 5, "all once before any again"


def test_the_rows_of_a_pool_show_every_image_alike(trial: SimpleNamespace, tmp_path: Path) -> None:
    labels = made(trial, tmp_path, {**BUDGET, "student.budget": 6}).set.portable
    assert labels.rows.bincount().tolist() == [2] * 20


@pytest.mark.parametrize(("budget", "per_epoch"), [(5, 3), (3, 3), (2, 5), (7, 2)])
def test_epochs_go_through_the_pool_pass_by_pass(budget: int, per_epoch: int) -> None:
    numbers = [n for epoch in range(14) for n in pool_order(4, budget, per_epoch, epoch)]
    assert len(numbers) == 14 * per_epoch
    for first in range(0, len(numbers) - budget + 1, budget):
        assert sorted(numbers[first : first + budget]) == list(range(budget))


@pytest.mark.parametrize("changes", [BUDGET, FIXED])
def test_the_card_says_what_the_labels_take(
    changes: dict[str, Any], trial: SimpleNamespace, tmp_path: Path
) -> None:
    found = made(trial, tmp_path, changes)
    labels = found.set.card["labels"]
    assert labels["bytes"] == (found.path / "labels.safetensors").stat().st_size
    assert labels["kind"] == changes["student.labels"] and labels["bn"] == "eval"
    assert labels.get("batches") == changes.get("student.budget")


@pytest.mark.parametrize("changes", [BUDGET, FIXED])
def test_a_folder_alone_trains_the_same_student(
    changes: dict[str, Any], trial: SimpleNamespace, tmp_path: Path
) -> None:
    """Without the teacher's artifact, from a copy of the folder under its address."""
    found = made(trial, tmp_path / "one", changes)
    student = found.stages.student
    (first,) = local_runner(found.store)(student)
    alone = ArtifactStore(tmp_path / "two")
    shutil.copytree(found.path, alone.path(found.stages.distilled))
    (second,) = local_runner(alone)(student)
    weights = [load_file(own.path / "model.safetensors") for own in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not alone.path(found.stages.distilled.teacher).exists()


@pytest.mark.parametrize("changes", [BUDGET, FIXED])
def test_portable_labels_survive_saving(
    changes: dict[str, Any], trial: SimpleNamespace, tmp_path: Path
) -> None:
    found = made(trial, tmp_path / "store", changes).set
    (tmp_path / "copy").mkdir()
    found.save(tmp_path / "copy")
    again = DistilledSet.load(tmp_path / "copy").portable
    assert again is not None and again.student == found.portable.student
    assert torch.equal(again.logits, found.portable.logits)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"logits": torch.zeros(3, 10).half()}, r"logits must be torch.float16 \(34, 10\), got"),
        ({"rows": torch.full((34,), 20)}, r"rows must be in 0..19, got 20..20"),
        ({"seeds": torch.zeros(2, dtype=torch.int64)}, r"seeds must be torch.int64 \(5,\), got"),
        ({"logits": torch.full((34, 10), torch.nan).half()}, "logits must be finite"),
        ({"mean": torch.zeros(3)}, r"mean must be torch.float32 \(64,\), got"),
        ({"mean": torch.zeros(64)}, r"weight must be torch.float32 \(64, 64\), got None"),
    ],
)
def test_labels_that_are_none_of_the_set_are_refused(
    change: dict[str, Any], rule: str, trial: SimpleNamespace, tmp_path: Path
) -> None:
    path = made(trial, tmp_path, BUDGET).path
    known = {name: value.clone() for name, value in load_file(path / "labels.safetensors").items()}
    (path / "labels.safetensors").unlink()
    save_file({**known, **change}, path / "labels.safetensors")
    with pytest.raises(DataError, match=rf"labels\.safetensors: {rule}"):
        DistilledSet.load(path)


@pytest.mark.parametrize(
    ("labels", "budget", "rule"),
    [
        ("soft", 5, "must hold fixed or budget labels, got soft"),
        ("budget", 10**12, r"seeds must be torch.int64 \(1000000000000,\), got"),
    ],
)
def test_a_card_that_describes_other_labels_is_refused(
    labels: str, budget: int, rule: str, trial: SimpleNamespace, tmp_path: Path
) -> None:
    path = made(trial, tmp_path, BUDGET).path / "card.json"
    card = json.loads(path.read_text())
    card["labels"]["student"] |= {"labels": labels, "budget": budget}
    path.unlink()
    path.write_text(json.dumps(card))
    with pytest.raises(DataError, match=rf"labels\.safetensors: {rule}"):
        DistilledSet.load(path.parent)


def test_a_card_that_names_labels_needs_them(trial: SimpleNamespace, tmp_path: Path) -> None:
    path = made(trial, tmp_path, FIXED).path
    card = json.loads((path / "card.json").read_text())
    (path / "labels.safetensors").unlink()
    with pytest.raises(DataError, match=r"labels\.safetensors: cannot be read"):
        DistilledSet.load(path)
    broken = copy.deepcopy(card)
    broken["labels"]["student"] = {"labels": "own", "nonsense": 1}
    (path / "card.json").write_text(json.dumps(broken))
    with pytest.raises(DataError, match=r"card\.json: its labels are not described"):
        DistilledSet.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"student.train.epochs": 9},
        {"student.loss": "mse"},
        {"student.regularizer": "pgd-at"},
        {"student.train.lr": 0.3},
        {"student.ema": 0.5},
    ],
)
def test_students_that_differ_in_training_alone_share_a_pool(
    changes: dict[str, Any], tiny_config: TrialConfig
) -> None:
    stages = [TrialStages.of(tiny_config.override({**BUDGET, **own})) for own in ({}, changes)]
    assert stages[0].distilled == stages[1].distilled
    assert stages[0].student.key != stages[1].student.key


def test_own_labels_are_refused_where_none_are_learned() -> None:
    with pytest.raises(ConfigError, match=r"student\.labels: own: mtt learns no labels here"):
        TrialConfig().override({"method": "mtt", "student.labels": "own"})


@pytest.mark.parametrize("method", ["tesla", "datm"])
def test_own_labels_are_those_that_were_learned_with_the_images(method: str) -> None:
    learned = TrialConfig().override({"method": method, "student.labels": "own"})
    assert TrialStages.of(learned).student.inputs.keys() == {"distilled"}


def test_a_student_of_a_pool_of_whitened_dsa(tiny_config: TrialConfig, tmp_path: Path) -> None:
    changes = {**BUDGET, "method": "random", "regularizer": "none", "model.input": "zca"}
    config = tiny_config.override({**changes, "student.train.augment": ["dsa"]})
    result = run_trial(config, local_runner(ArtifactStore(tmp_path)))
    found = DistilledSet.load(result.paths["distilled"])
    assert found.portable is not None and set(found.portable.whitening) == {"mean", "weight"}
    model = load_model(next((tmp_path / "squeeze").iterdir()))
    for x, logits, _ in found.portable.batches(found.images, found.one_hot(), found.spec, 0):
        torch.testing.assert_close(model(x), logits, rtol=1e-2, atol=1e-2)
