from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guard.artifacts import ArtifactStore
from guard.config.labels import kept_epochs
from guard.errors import ConfigError
from guard.models.networks import folded
from guard.models.saving import load_model, load_spec
from guard.pipeline import local_runner
from guard.stages import Committee, Early, Squeeze
from guard.teachers import labeller
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import draws

EARLY = {"labels.epoch": 1}


def labels_of(config: TrialConfig) -> Any:
    return labeller(config, config.own.teachers(config.shared))


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [(1, (1,)), (3, (1, 2, 3)), (20, tuple(range(1, 21))), (200, tuple(range(10, 201, 10)))],
)
def test_at_most_twenty_networks_are_kept(epochs: int, kept: tuple[int, ...]) -> None:
    assert kept_epochs(epochs) == kept


def test_an_early_teacher_is_the_whole_training_stopped(
    trial: SimpleNamespace, tmp_path: Path
) -> None:
    store, config = ArtifactStore(tmp_path), trial.config.override(EARLY)
    early = labels_of(config)
    assert isinstance(early, Early) and early.teacher.keeps
    made = [local_runner(store)(stage)[0] for stage in (early.teacher, early)]
    assert same(weights(made[0].path), weights(trial.result.paths["teacher"])), "as without"
    assert not same(weights(made[1].path), weights(made[0].path))
    assert same(weights(made[0].path, "epoch-00002.safetensors"), weights(made[0].path))
    whole = trial.store.get(Squeeze.of(trial.config.shared)).summary["history"]
    assert made[1].summary["history"] == whole[:1]
    other = ArtifactStore(tmp_path / "other")
    short = trial.config.override({"squeeze.epochs": 1, "squeeze.schedule": "constant"})
    (constant,) = local_runner(other)(Squeeze.of(short.shared))
    torch.testing.assert_close(weights(constant.path), weights(made[1].path), rtol=0, atol=1e-6)


def test_what_is_kept_survives_an_interruption(
    trial: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import guard.training.teacher

    stage, stores = labels_of(trial.config.override(EARLY)).teacher, []
    for name in ("whole", "broken"):
        store = ArtifactStore(tmp_path / name)
        stores.append(store)
        if name == "broken":
            monkeypatch.setattr(guard.checkpoint, "EVERY_S", 0.0)
            with monkeypatch.context() as patched:
                patched.setattr(guard.training.teacher, "accuracy", None)
                with pytest.raises(TypeError):
                    store.get_or_build(stage)
        store.get_or_build(stage)
    for file in ("epoch-00001.safetensors", "epoch-00002.safetensors", "model.safetensors"):
        assert same(*(weights(store.path(stage), file) for store in stores))


def test_trials_that_name_an_epoch_share_one_training(tiny_config: TrialConfig) -> None:
    one, two = (tiny_config.override({"labels.epoch": number}) for number in (1, 2))
    assert labels_of(one).teacher == labels_of(two).teacher
    assert TrialStages.of(one).teachers == TrialStages.of(two).teachers
    with pytest.raises(ConfigError, match=r"labels\.epoch: of 2 epochs 1, 2 are kept; got 3"):
        tiny_config.override({"labels.epoch": 3})
    with pytest.raises(ConfigError, match=r"labels\.epoch: of 200 epochs 10, 20, .* got 15"):
        tiny_config.override({"labels.epoch": 15, "squeeze.epochs": 200})


def test_a_committee_is_the_mean_of_its_members_logits(
    trial: SimpleNamespace, tmp_path: Path
) -> None:
    config = trial.config.override({"labels.teachers": ["own", "none"], "labels.networks": ["own"]})
    committee, store = labels_of(config), ArtifactStore(tmp_path)
    assert isinstance(committee, Committee) and len(committee.teachers) == 2
    shutil.copytree(trial.result.paths["teacher"], store.path(committee.teachers[0]))
    local_runner(store)(committee.teachers[1], committee)
    together = load_model(store.path(committee))
    members = [load_model(store.path(own)) for own in committee.teachers]
    x = torch.rand(5, 1, 8, 8, generator=draws())
    with torch.no_grad():
        answers = [member(x) for member in members]
        found, quick = together(x), folded(together)(x)
    expected = (answers[0] + answers[1]) / 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(quick, expected, rtol=1e-4, atol=1e-5)
    assert load_spec(store.path(committee)) == load_spec(trial.result.paths["teacher"])
    assert not torch.allclose(*answers, atol=0.1)


def test_members_are_regularizers_by_networks_by_seeds(tiny_config: TrialConfig) -> None:
    config = tiny_config.override(
        {
            "labels.teachers": ["own", "pgd-at"],
            "labels.networks": ["own", "convnet"],
            "labels.seeds": 2,
            "seed": 5,
        }
    )
    found = labels_of(config).teachers
    assert [(t.regularizer.kind, t.model.name, t.seed) for t in found] == [
        (kind, name, seed)
        for kind in ("curvature", "adversarial")
        for name in ("bn-convnet", "convnet")
        for seed in (5, 1_000_005)
    ]
    assert found[0] == Squeeze.of(config.shared)
    assert [t.eps for t in found] == [0.0] * 4 + [config.evaluation.eps] * 4


def test_images_and_labels_may_be_of_different_teachers(tiny_config: TrialConfig) -> None:
    stages = TrialStages.of(tiny_config.override({"labels.teachers": ["pgd-at"]}))
    (recovered,) = stages.teachers
    labelling = stages.student.inputs["labels"].inputs["teacher"]
    assert isinstance(recovered, Squeeze) and isinstance(labelling, Squeeze)
    assert (recovered.regularizer.kind, labelling.regularizer.kind) == ("curvature", "adversarial")
    assert {stage.model for stage in stages.teacher_check} == {labelling}


@pytest.mark.parametrize("labels", ["soft", "fixed", "budget"])
def test_a_regularizer_of_real_images_acts_in_their_teacher_alone(labels: str) -> None:
    own = {"method": "random", "student.labels": labels}
    assert TrialConfig().override(own).can_be_regularized
    with pytest.raises(ConfigError, match="random trains no network on real images"):
        TrialConfig().override({**own, "labels.teachers": ["pgd-at"]})


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"labels.teachers": []}, "labels.teachers: must name at least one"),
        ({"labels.teachers": ["own", "own"]}, "labels.teachers: must be distinct"),
        ({"labels.teachers": ["pgd"]}, "labels.teachers: must be one of own, none, curvature"),
        ({"labels.networks": ["vgg"]}, "labels.networks: must be one of own, convnet"),
    ],
)
def test_bad_committees_are_refused(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        TrialConfig().override(values)
