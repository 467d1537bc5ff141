"""Images that are recovered from several teachers, which take turns."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from laboratory import Lab, stages
from recovering import SPEC, teacher
from test_classwise import images
from test_recover_phases import Interrupted
from torch import Tensor
from torch.nn import functional as F

from guard.checkpoint import Checkpoint
from guard.config import ModelConfig
from guard.errors import ConfigError
from guard.methods.sre2l import FOUR_NETWORKS, SRe2L
from guard.methods.sre2l.classwise import by_model, class_statistics
from guard.methods.sre2l.recover import Aims, recover_images
from guard.methods.sre2l.statistics import BatchNormLoss
from guard.models.batchnorm import batchnorms
from guard.models.networks import Classifier, build_model, committee, members_of
from guard.pipeline import metrics_of
from guard.stages import Committee, Squeeze
from guard.trial import TrialConfig
from guard.trial_stages import TrialStages
from helpers import CPU, draws

LABELS = torch.arange(4).repeat(2)
BASE: dict[str, Any] = {"iterations": 5, "lr": 0.3, "bn_weight": 0.5, "bn_scale": "mean"}
TWO = {"model": {"name": "bn-convnet", "width": 6, "depth": 2}, "regularizer": "none"}


def three() -> list[Classifier]:
    return [teacher(seed) for seed in range(3)]


def recovered(
    teachers: list[Classifier], checkpoint: Checkpoint | None = None, aims: Aims | None = None
) -> tuple[Tensor, dict[str, float]]:
    place = [] if checkpoint is None else [checkpoint]
    config = SRe2L(**BASE)
    return recover_images(
        teachers, SPEC, LABELS, config, draws(), *place, aims=Aims() if aims is None else aims
    )


def test_each_step_is_adams_on_the_losses_of_the_teacher_whose_turn_it_is() -> None:
    """Written out, in double precision; the last losses are those of the last turn."""
    models, steps = [model.double() for model in three()], BASE["iterations"]
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (SPEC.mean, SPEC.std))
    u = torch.randn(8, 3, 8, 8, generator=draws()).double()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for step, model in enumerate([models[0], models[1], models[2], models[0], models[1]]):
        u.requires_grad_()
        with BatchNormLoss(model, 10, "mean") as bn_loss:
            label, distance = F.cross_entropy(model(u * std + mean), LABELS), bn_loss.take()
        (gradient,) = torch.autograd.grad(label + 0.5 * distance, u)
        first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
        ratio = first / (1 - 0.5 ** (step + 1)) / (second / (1 - 0.9 ** (step + 1))).sqrt()
        rate = 0.3 * (1 + math.cos(math.pi * step / steps)) / 2
        u = (u.detach() - rate * ratio).clamp(-mean / std, (1 - mean) / std)
    found, last = recovered(three())
    difference = (found.double() - (u * std + mean)).abs()
    assert float(difference.median()) < 1e-4
    assert float(difference.quantile(0.9)) < 2e-3
    assert last["label_loss"] == pytest.approx(float(label.detach()), rel=1e-2)
    assert last["bn_loss"] == pytest.approx(float(distance.detach()), rel=1e-2)
    alone = [recovered([model])[0] for model in three()]
    assert all(float((found - other).abs().mean()) > 1e-3 for other in alone)


def test_a_recovery_that_is_taken_up_again_goes_on_with_the_same_turn(tmp_path: Path) -> None:
    whole = recovered(three())[0]
    with pytest.raises(KeyboardInterrupt):
        recovered(three(), Interrupted(tmp_path, 2))
    assert torch.equal(recovered(three(), Checkpoint(tmp_path, 0))[0], whole)


def test_a_recovery_leaves_every_teacher_as_it_was() -> None:
    models = three()
    recovered(models)
    for model in models:
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert not any("forward" in vars(layer) for layer in batchnorms(model))


def test_a_committee_is_its_members_and_a_network_itself() -> None:
    models = three()
    assert members_of(committee(models)) == models
    assert members_of(models[0]) == models[:1]


def test_class_statistics_of_a_committee_are_those_of_each_member() -> None:
    models, data = (
        [teacher(0), build_model(ModelConfig(width=6, depth=3), SPEC, 5).eval()],
        images(),
    )
    found = by_model(class_statistics(committee(models), data, 4, CPU), models)
    for own, model in zip(found, models, strict=True):
        expected = class_statistics(model, data, 4, CPU)
        for ours, wanted in zip(own, expected, strict=True):
            assert torch.equal(ours[0], wanted[0]) and torch.equal(ours[1], wanted[1])


def test_each_teacher_has_its_own_class_statistics() -> None:
    models = three()
    aims = [
        [(torch.full((4, n), v), torch.full((4, n), v + 1)) for n in (4, 4)]
        for v in (0.1, 0.5, 2.0)
    ]
    found = recovered(models, aims=Aims(statistics=aims))[0]
    turned = recovered(models, aims=Aims(statistics=aims[::-1]))[0]
    assert not torch.allclose(found, turned, atol=1e-3)


def planned(**changes: Any) -> TrialStages:
    named = {"sre2l.committee.networks": ["own", "resnet18"]}
    return TrialStages.of(TrialConfig().override({"regularizer": "none", **named, **changes}))


def test_a_committee_recovers_and_labels_and_its_members_are_any_trials_teachers() -> None:
    found = planned(**{"sre2l.patches": {}, "sre2l.bn_statistics": "class", "ipc": 2})
    own, other = found.teachers
    plain = TrialStages.of(TrialConfig(regularizer="none"))  # type: ignore[arg-type]
    assert own == plain.teachers[0]
    assert isinstance(other, Squeeze) and other.model.name == "resnet18"
    named = TrialConfig().override(
        {"regularizer": "none", "method": "random", "student.labels": "soft"}
    )
    label = TrialStages.of(named.override({"labels.networks": ["own", "resnet18"]})).student
    labelled: Any = found.student
    committee = labelled.labels.teacher
    assert committee == Committee(teachers=(own, other), compute=own.compute)
    assert label.labels.teacher == committee  # type: ignore[attr-defined]
    for part in found.parts:
        inputs = part.inputs
        assert inputs["teacher"] == inputs["statistics"].inputs["teacher"] == committee
        assert inputs["patches"].inputs["teacher"] == own


def test_members_are_regularizers_by_networks_by_seeds() -> None:
    found = planned(**{"sre2l.committee.teachers": ["own", "pgd-at"], "sre2l.committee.seeds": 2})
    kinds = [(own.regularizer.kind, own.model.name, own.seed) for own in found.teachers]  # type: ignore[attr-defined]
    assert len(kinds) == len(set(kinds)) == 8
    assert kinds[0] == ("none", "bn-convnet", 0) and kinds[-1] == ("adversarial", "resnet18", 10**6)


def test_a_committee_of_one_is_the_teacher_itself() -> None:
    found = planned(**{"sre2l.committee.networks": ["own"]})
    (own,) = found.teachers
    assert found.parts[0].inputs["teacher"] == own
    plain = TrialStages.of(TrialConfig(regularizer="none"))  # type: ignore[arg-type]
    assert own == plain.teachers[0]


def test_labels_may_be_of_other_teachers() -> None:
    found: Any = planned(**{"labels.teachers": ["pgd-at"]})
    assert found.student.labels.teacher.regularizer.kind == "adversarial"
    assert isinstance(found.parts[0].inputs["teacher"], Committee)


def test_a_trial_with_a_committee_completes(lab: Lab) -> None:
    config = lab.config(
        "sre2l",
        **{
            **TWO,
            "sre2l": "fadrm+",
            "sre2l.iterations": 4,
            "sre2l.patches": {"candidates": 4, "crops": 2},
            "sre2l.bn_statistics": "class",
            "sre2l.committee": {"networks": ["own"], "seeds": 2},
            "sre2l.jitter": 1,
        },
    )
    result = lab.run(config)
    assert (result.status, result.reason) == ("complete", "")
    made = stages(config, "squeeze")
    assert len(made) == 2
    means = [lab.store.get(own).summary["metrics"]["train_loss"] for own in made]
    assert result.metrics["teacher/train_loss"] == pytest.approx(sum(means) / 2)
    (relabelled,) = stages(config, "relabel")
    assert relabelled.inputs["teacher"].name == "committee"
    again = config.override({"sre2l.committee.seeds": 1})
    assert not torch.equal(lab.made(config).images, lab.made(again).images)


def test_a_heading_tells_what_all_of_its_stages_have() -> None:
    rows = [{"train_loss": 1.0, "kept_mebibytes": 3.0}, {"train_loss": 2.0}]
    artifacts: list[Any] = [SimpleNamespace(summary={"metrics": row}) for row in rows]
    assert metrics_of(TrialConfig(), "teacher", artifacts) == {"train_loss": 1.5}


CONVNET = {"model.name": "convnet", "model.norm": "batch"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"sre2l.committee.networks": ["own", "torchvision:vgg11"]},
            "sre2l.committee.networks: sre2l matches BatchNorm statistics, and torchvision:vgg11 "
            "has none",
        ),
        (
            {"method": "cda", "cda.committee.teachers": ["pgd-at", "none"]},
            "cda.committee.teachers: must name own, which curvature acts on (or set "
            "regularizer=none); got pgd-at, none",
        ),
        ({"sre2l.committee.networks": []}, "sre2l.committee.networks: must name at least one"),
        (
            {"sre2l.committee.seeds": 0},
            "sre2l.committee.seeds: must be at least 1, got 0",
        ),
        (
            {
                "model": {"name": "resnet18", "stem": "tiny-224"},
                "sre2l.committee.networks": ["own", "torchvision:resnet34"],
            },
            "sre2l.committee.networks: model.stem: tiny-224 is of resnet18, got "
            "torchvision:resnet34",
        ),
        (
            {
                "model.norm": "batch",
                "sre2l.committee.networks": ["own", "convnet"],
                "sre2l.sizes": [6],
            },
            "sre2l.sizes: needs a teacher for images of any side; convnet and model.input = zca "
            "take one",
        ),
    ],
)
def test_a_committee_that_has_no_meaning_is_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(changes)
    assert str(caught.value) == told


def test_a_committee_that_is_off_says_nothing() -> None:
    assert "committee" not in SRe2L().to_dict()


@pytest.mark.slow
def test_the_weight_of_fadrm_plus_is_that_of_resnet18_and_its_networks_see_small_images() -> None:
    spec = SPEC
    weights = {}
    for name in FOUR_NETWORKS:
        layers = batchnorms(build_model(ModelConfig(name=name), spec))
        assert layers, name
        roots = [math.sqrt(layer.num_features) for layer in layers]
        weights[name] = 0.01 * (10 * roots[0] + sum(roots[1:]))
    assert SRe2L.named("fadrm+").bn_weight == pytest.approx(weights["resnet18"], rel=0.01)
    assert max(weights.values()) > 2 * min(weights.values()), "so sums would not do"
