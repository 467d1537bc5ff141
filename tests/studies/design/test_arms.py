"""The arms of every study, on digits and on other data."""

from __future__ import annotations

from typing import Any

import pytest
from designed import BASE, PRESET, controls_first

from guard.config import RegularizerConfig
from guard.trial import TrialConfig
from studies import ablation, compare, scaling
from studies.design.stories import stories
from studies.design.study import Study
from studies.driver.settings import base_config
from studies.presets import PRESETS
from tune.results.comparison import Arm, named
from tune.results.records import SEEDS
from tune.runs import Run

STUDIES = [story for story in stories().values() if isinstance(story, Study)]


def runs_of(study: Study, seeds: int = 1) -> list[Run]:
    """The trials of a study on digits."""
    design = study.design(PRESET)
    methods = design.axes.get("method", ())
    return design.runs(base_config(BASE, design.fixed, methods), seeds)


def test_every_study_has_the_control_of_each_arm_first() -> None:
    for study in STUDIES:
        assert controls_first(runs_of(study)), study.name


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("compare", 10),
        ("adversarial", 10),
        ("ablation", 16),
        ("transfer", 10),
        ("scaling", 14),
        ("gallery", 4),
        ("curvature", 2),
    ],
)
def test_a_study_on_digits_has_its_arms(name: str, arms: int) -> None:
    (study,) = (study for study in STUDIES if study.name == name)
    runs = runs_of(study, 2)
    assert len(runs) == 2 * arms
    different = {run.config.override(dict.fromkeys(SEEDS, 0)) for run in runs}
    assert len({arm.title for arm in named([Arm(config=config) for config in different])}) == arms


SELECTING = ("samplers",)
"""Studies of what a search does, which sees validation images alone."""


@pytest.mark.parametrize(
    "study", [s for s in STUDIES if s.name not in SELECTING], ids=lambda study: study.name
)
def test_every_trial_of_a_study_is_evaluated_on_test_images_alone(study: Study) -> None:
    for run in runs_of(study):
        assert run.config.evaluation.splits == ("test",)
        assert set(PRESET.confirm.attacks) <= set(run.config.evaluation.attacks)


@pytest.mark.parametrize("preset", ["cifar10-small", "tiny-imagenet"])
def test_every_study_can_be_planned_on_other_data(preset: str) -> None:
    made = PRESETS[preset]()
    for study in STUDIES:
        design = study.design(made)
        methods = design.axes.get("method", ())
        runs = design.runs(base_config(made.config, design.fixed, methods), 1)
        assert controls_first(runs), study.name


def arms_of(study: Study) -> set[tuple[Any, ...]]:
    """(method, IPC, kind of penalty)."""
    configs = [run.config for run in runs_of(study)]
    return {(c.method, c.ipc, c.regularizer.kind) for c in configs}


def test_the_comparison_has_guard_on_two_methods_and_all_controls() -> None:
    guarded = {(name, kind) for name in ("sre2l", "cda", "whole") for kind in ("none", "curvature")}
    plain = {(name, "none") for name in ("mtt", "tesla", "mat", "random")}
    assert arms_of(compare.STUDY) == {(name, BASE.ipc, kind) for name, kind in guarded | plain}


def test_the_comparison_shows_each_attack_alone() -> None:
    evaluation = runs_of(compare.STUDY)[0].config.evaluation
    assert not evaluation.cascade
    assert {"pgd100", "mim", "cw"} <= set(evaluation.attacks)


def test_transfer_pairs_each_method_with_its_control() -> None:
    (transfer,) = (study for study in STUDIES if study.name == "transfer")
    assert arms_of(transfer) == {
        (method, BASE.ipc, kind)
        for method in ("sre2l", "cda", "dc", "dsa", "mtt")
        for kind in ("none", "curvature")
    }


def test_adversarial_training_stands_beside_guard_at_each_ipc() -> None:
    (adversarial,) = (study for study in STUDIES if study.name == "adversarial")
    found = {(run.config.ipc, run.config.regularizer) for run in runs_of(adversarial)}
    embedded = [RegularizerConfig.named(name) for name in ("pgd-at", "fgsm-rs", "trades")]
    none = BASE.unregularized().regularizer
    assert found == {
        (ipc, penalty) for ipc in (1, BASE.ipc) for penalty in (none, BASE.regularizer)
    } | {(ipc, penalty) for ipc in (1, BASE.ipc) for penalty in embedded}


def of_kind(runs: list[Run], kind: str) -> list[TrialConfig]:
    return [run.config for run in runs if run.config.regularizer.kind == kind]


def test_the_ablation_has_the_five_published_weights_of_the_gradient_norm() -> None:
    found = of_kind(runs_of(ablation.STUDY), "gradient-norm")
    assert [config.regularizer.weight for config in found] == [1e-4, 1e-3, 1e-2, 0.1, 1.0]


def test_the_ablation_changes_one_detail_of_the_penalty_at_a_time() -> None:
    own = BASE.regularizer.to_dict()
    named = [RegularizerConfig.named(name) for name in ("released-cifar", "released-imagenet")]
    details = [
        {name: value for name, value in penalty.to_dict().items() if own[name] != value}
        for config in of_kind(runs_of(ablation.STUDY), "curvature")
        if (penalty := config.regularizer) not in named
    ]
    assert [detail for detail in details if detail] == [
        {"power": 1},
        {"direction": "sign"},
        {"bn": "train"},
        {"fraction": 1.0},
        {"fraction": 0.125},
    ]


def test_the_ablation_has_what_the_published_codes_compute() -> None:
    penalties = [run.config.regularizer for run in runs_of(ablation.STUDY)]
    for name in ("released-cifar", "released-imagenet"):
        assert penalties.count(RegularizerConfig.named(name)) == 1


def test_arms_with_another_batchnorm_weight_have_controls_of_their_own() -> None:
    found = [
        (run.config.sre2l.bn_weight, run.control)
        for run in runs_of(ablation.STUDY)
        if run.config.sre2l.bn_weight != BASE.sre2l.bn_weight
    ]
    more = 10 * BASE.sre2l.bn_weight
    assert found == [(more, True), (more, False)]


def test_scaling_varies_ipc_and_width_and_they_cross_at_the_preset() -> None:
    configs = [run.config for run in runs_of(scaling.STUDY)]
    sizes = {(config.ipc, config.model.width) for config in configs}
    width = BASE.model.width
    along = {(ipc, width) for ipc in (1, 2, 5, 10, 20)}
    assert sizes == along | {(BASE.ipc, width // 4), (BASE.ipc, width // 2)}


def test_only_networks_that_read_a_width_are_widened() -> None:
    design = scaling.design(PRESETS["cifar10"]())
    assert all("model.width" not in variant for variant in design.variants)
