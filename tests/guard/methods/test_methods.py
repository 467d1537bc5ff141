"""What every base method must keep to when it runs, on four classes of digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import (
    CLASSES,
    DISTILS,
    IPC,
    LABELLED,
    LEARNS_RATE,
    METHODS,
    PENALTY,
    REGULARIZED,
    UNLABELLED,
    Lab,
    keys,
    stages,
    subset,
    tiny,
)
from safetensors.torch import load_file

from guard.artifacts import ArtifactStore
from guard.methods.mtt import MTT
from guard.methods.subset import Herding
from guard.models.saving import load_model
from guard.pipeline import local_runner, run_trial
from guard.stage import Stage, closure
from guard.stages import Squeeze
from guard.trial import TrialConfig, methods
from guard.trial_stages import STAGES, TrialStages
from helpers import files, same


@pytest.mark.parametrize("name", METHODS)
def test_a_trial_completes(name: str, lab: Lab) -> None:
    config = lab.config(name)
    result = lab.run(config)
    assert (result.status, result.reason) == ("complete", "")
    assert [record.key for record in result.stages] == keys(config)
    assert {record.name for record in result.stages} <= set(STAGES)
    assert set(result.paths) - {"student", "validation verdicts", "test verdicts"} == (
        ({"distilled"} if config.distils else set())
        | ({"teacher"} if config.own.teachers(config.shared) else set())
    )
    assert all(np.isfinite(value) for value in result.metrics.values())
    for split in ("validation", "test"):
        clean = result.metrics[f"{split}/clean_accuracy"]
        assert 0 <= result.metrics[f"{split}/robust_accuracy"] <= clean <= 1
    assert load_model(result.paths["student"])(torch.rand(3, 1, 8, 8)).shape == (3, CLASSES)


@pytest.mark.parametrize("name", DISTILS)
def test_a_set_is_balanced_pixels_in_prefix_order(name: str, lab: Lab) -> None:
    made = lab.made(lab.config(name))
    assert made.images.shape == (CLASSES * IPC, 1, 8, 8)
    assert made.images.dtype == torch.float32
    assert made.images.isfinite().all()
    assert 0 <= made.images.min() and made.images.max() <= 1
    assert len(made.images.flatten(1).unique(dim=0)) == CLASSES * IPC
    assert made.labels.dtype == torch.int64
    assert made.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (made.ipc, made.spec.num_classes) == (IPC, CLASSES)


@pytest.mark.parametrize("name", DISTILS)
def test_a_card_says_where_a_set_comes_from(name: str, lab: Lab) -> None:
    config = lab.config(name)
    card = lab.made(config).card
    (stage,) = stages(config, "distilled")
    assert (card["format"], card["method"], card["ipc"]) == (2, name, IPC)
    assert card["inputs"] == {role: made.address for role, made in stage.inputs.items()}
    for role, origin in card["made_by"].items():
        assert origin["config"] == stage.inputs[role].config
    assert ("teacher" in card["made_by"]) is (name in LABELLED)
    assert "part-0000" in card["made_by"]
    rate = card.get("learned_lr")
    assert (rate is not None and rate > 0 and rate != 0.01) is (name in LEARNS_RATE)


@pytest.mark.parametrize("name", DISTILS)
def test_soft_labels_are_distributions_where_there_are_any(name: str, lab: Lab) -> None:
    config = lab.config(name)
    soft = lab.made(config).soft_labels
    own = config.own
    learns_labels = isinstance(own, MTT) and bool(own.soft_labels or own.lr_labels)
    assert (soft is not None) is (name in LABELLED or learns_labels)
    if soft is not None:
        assert soft.shape == (CLASSES * IPC, CLASSES) and soft.dtype == torch.float32
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(CLASSES * IPC))
        assert soft.min() >= 0
        assert len(soft.unique(dim=0)) == CLASSES * IPC


@pytest.mark.parametrize("name", METHODS)
def test_another_store_gets_the_same_bytes(name: str, lab: Lab, tmp_path: Path) -> None:
    """Also where the data lies somewhere else, and whatever the global generators hold."""
    config = lab.config(name)
    lab.run(config)
    elsewhere = config.override({"data.path": str(subset(tmp_path / "moved.npz"))})
    torch.manual_seed(99)
    fresh = ArtifactStore(tmp_path / "store")
    result = run_trial(elsewhere, local_runner(fresh))
    assert result.metrics == lab.run(config).metrics
    again, first = files(fresh.root), files(lab.store.root)
    assert len({path.split("/")[1] for path in again}) == len(set(keys(config)))
    assert [path for path in again if again[path] != first[path]] == []


@pytest.mark.parametrize("name", METHODS)
def test_a_second_run_builds_nothing(name: str, lab: Lab) -> None:
    config = lab.config(name)
    first, again = lab.run(config), run_trial(config, local_runner(lab.store))
    assert not any(record.built for record in again.stages)
    assert (again.metrics, again.paths) == (first.metrics, first.paths)


@pytest.mark.parametrize("name", METHODS)
def test_a_trial_leaves_the_global_random_states_alone(name: str, lab: Lab) -> None:
    config = lab.config(name)
    lab.run(config)
    assert lab.noise[config.fingerprint()] is False


def made_by(config: TrialConfig) -> list[Stage]:
    """The stages that make networks and images: teachers, parts, and the network of `whole`."""
    made = TrialStages.of(config)
    return list(closure(*made.teachers, *made.parts)) or [made.student]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "given"])
def test_another_seed_gives_other_networks_and_images(name: str, lab: Lab) -> None:
    """Herding draws nothing but its network, so its choice may be the same."""
    config = lab.config(name)
    pairs = zip(made_by(config), made_by(config.override({"seed": 1})), strict=True)
    changed = [not same(lab.built(ours)[1], lab.built(theirs)[1]) for ours, theirs in pairs]
    is_herding = issubclass(methods()[name], Herding)
    assert changed and all(changed[:1] if is_herding else changed)


def repeated(config: TrialConfig) -> list[Stage]:
    """Teachers or parts of one kind, where there are several."""
    made = TrialStages.of(config)
    return [stage for group in (made.teachers, made.parts) if len(group) > 1 for stage in group]


def test_some_methods_have_stages_of_one_kind() -> None:
    with_several = {name for name in METHODS if repeated(tiny(name))}
    assert with_several >= {"sre2l", "cda", "mtt", "tesla", "mat"}


@pytest.mark.parametrize("name", [name for name in METHODS if repeated(tiny(name))])
def test_stages_of_one_kind_are_drawn_apart(name: str, lab: Lab) -> None:
    config = lab.config(name)
    lab.run(config)
    first, second = (lab.built(stage)[1] for stage in repeated(config)[:2])
    drawn = set(first) & {"images", "theta"}
    assert drawn and not any(torch.equal(first[of][0], second[of][0]) for of in drawn)


@pytest.mark.parametrize("name", REGULARIZED)
def test_a_penalty_changes_what_is_made(name: str, lab: Lab) -> None:
    plain, penalised = lab.config(name), lab.config(name, **PENALTY)
    assert lab.run(penalised).status == "complete"
    if name not in DISTILS:
        student = [lab.run(c).paths["student"] / "model.safetensors" for c in (plain, penalised)]
        assert not same(*(load_file(path) for path in student))
        return
    ours, theirs = lab.made(plain).images, lab.made(penalised).images
    assert not torch.equal(ours, theirs)
    assert [record.built for record in lab.run(penalised).stages].count(True) > 3


@pytest.mark.parametrize("name", UNLABELLED)
def test_soft_labels_of_a_method_without_a_teacher_need_one(
    name: str, lab: Lab, tmp_path: Path
) -> None:
    config = lab.config(name, **{"student.labels": "soft"})
    fresh = replace(lab, store=ArtifactStore(tmp_path), results={})
    result = fresh.run(config)
    assert result.status == "complete"
    assert [record.key for record in result.stages] == keys(config)
    assert ("teacher" in result.paths) is bool(config.own.teachers(config.shared))
    (relabel,), (distilled,) = stages(config, "relabel"), stages(config, "distilled")
    teacher = Squeeze.of(config.shared)
    assert relabel.inputs == {"teacher": teacher, "distilled": distilled}
    assert keys(config, "squeeze") == [teacher.key]
    made = fresh.made(config)
    with torch.no_grad():
        answers = load_model(fresh.store.path(teacher))(made.expanded().images).softmax(dim=1)
    answers = answers.unflatten(0, (IPC, -1, CLASSES)).mean(dim=1).flatten(0, 1)
    assert made.soft_labels is not None
    torch.testing.assert_close(made.soft_labels, answers)
    assert torch.equal(made.images, lab.made(lab.config(name)).images)


@pytest.mark.parametrize("name", LABELLED)
def test_hard_labels_need_no_teachers_answers(name: str, lab: Lab) -> None:
    config = lab.config(name, **{"student.labels": "hard"})
    assert lab.run(config).status == "complete"
    assert keys(config, "relabel") == []
    assert lab.made(config).soft_labels is None
    assert torch.equal(lab.made(config).images, lab.made(lab.config(name)).images)


@pytest.mark.parametrize("name", LEARNS_RATE)
def test_a_student_trains_at_the_rate_that_was_learned(name: str, lab: Lab) -> None:
    config = lab.config(name, **{"student.learned_lr": True, "student.train.schedule": "constant"})
    rate = lab.made(config).card["learned_lr"]
    summary, _ = lab.built(stages(config, "student")[0])
    assert [epoch["lr"] for epoch in summary["history"]] == [rate] * 2
    assert lab.run(config).metrics["distilled/learned_lr"] == rate
    assert keys(config, "distilled") == keys(lab.config(name), "distilled")
