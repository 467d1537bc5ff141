from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from guard.config import EvaluationConfig, RegularizerConfig
from guard.errors import ConfigError, StudyError
from guard.trial import TrialConfig
from studies import ablation, compare, scaling
from studies.design.design import Design
from studies.design.stories import stories
from studies.design.study import Study, confirmed
from studies.driver.settings import base_config, parse_settings
from studies.presets import PRESETS
from tune.results.comparison import Arm, named
from tune.results.records import SEEDS
from tune.runs import Run

PRESET = PRESETS["digits"]()
BASE = PRESET.config
STUDIES = [story for story in stories().values() if isinstance(story, Study)]
Facts = Mapping[str, Any]


def changed(design: Design, *settings: str) -> Design:
    """As `--set` says."""
    return design.changed(parse_settings(settings))


def runs_of(study: Study, seeds: int = 1) -> list[Run]:
    """The trials of a study on digits."""
    design = study.design(PRESET)
    methods = design.axes.get("method", ())
    return design.runs(base_config(BASE, design.fixed, methods), seeds)


def controls_first(runs: list[Run]) -> bool:
    """Whether each regularized run comes after its control, on the same seed."""
    controls: set[str] = set()
    for run in runs:
        if run.control:
            controls.add(run.config.fingerprint())
        elif run.config.unregularized().fingerprint() not in controls:
            return False
    return True


def test_every_combination_is_run_on_every_seed() -> None:
    design = Design(
        axes={"ipc": (1, 10), "sre2l.lr": (0.1, 0.2)}, variants=[{}, {"regularizer": "cure"}]
    )
    runs = design.runs(BASE, 2)
    assert [run.trial for run in runs] == list(range(4 * 3 * 2))
    found = {
        (c.seed, c.ipc, c.sre2l.lr, c.regularizer.kind, c.regularizer.power)
        for c in (run.config for run in runs)
    }
    penalties = [("none", 2), ("curvature", 2), ("curvature", 1)]
    assert found == {
        (seed, ipc, lr, *penalty)
        for seed in (0, 1)
        for ipc in (1, 10)
        for lr in (0.1, 0.2)
        for penalty in penalties
    }


def test_points_are_all_combinations_of_the_axes() -> None:
    points = list(Design(axes={"ipc": (1, 10), "method": ("sre2l", "cda")}).points())
    assert points == [
        {"ipc": 1, "method": "sre2l"},
        {"ipc": 1, "method": "cda"},
        {"ipc": 10, "method": "sre2l"},
        {"ipc": 10, "method": "cda"},
    ]
    assert list(Design().points()) == [{}]


def test_a_control_comes_before_what_is_held_against_it() -> None:
    design = Design(axes={"ipc": (1, 10)}, variants=[{"regularizer": "cure"}, {}])
    runs = design.runs(BASE, 3)
    assert controls_first(runs)
    assert [run.control for run in runs[:6]] == [True, False, False, True, False, False]


def test_every_study_has_the_control_of_each_arm_first() -> None:
    for study in STUDIES:
        assert controls_first(runs_of(study)), study.name


def test_trials_run_seed_by_seed_so_more_seeds_only_add_some() -> None:
    design = Design(axes={"ipc": (1, 10)})
    few, many = design.runs(BASE, 1), design.runs(BASE, 3)
    assert many[: len(few)] == few
    assert [run.config.seed for run in many] == [0] * 4 + [1] * 4 + [2] * 4
    for own in (run.config for run in many):
        assert own.seed == own.student.seed == own.evaluation.seed


def test_the_same_configuration_is_run_once() -> None:
    width = BASE.model.width
    design = Design(axes={}, variants=[{"ipc": 10}, {"ipc": 10, "model.width": width}, {"ipc": 1}])
    runs = design.runs(BASE, 1)
    assert [(run.config.ipc, run.control) for run in runs] == [
        (10, True),
        (10, False),
        (1, True),
        (1, False),
    ]
    assert [run.trial for run in runs] == [0, 1, 2, 3]


def test_what_sets_a_run_apart_is_said_and_a_control_names_no_penalty() -> None:
    control, ours = Design(axes={"ipc": (1,)}, variants=[{"regularizer.h": 0.3}]).runs(BASE, 1)
    assert (control.control, control.params) == (True, {"ipc": 1, "seed": 0})
    assert (ours.control, ours.params) == (False, {"ipc": 1, "regularizer.h": 0.3, "seed": 0})


def test_of_trials_that_differ_in_what_they_do_not_read_the_first_is_run() -> None:
    axes = {"method": ("random", "sre2l", "whole"), "sre2l.iterations": (5, 6), "ipc": (1, 5)}
    runs = Design(axes=axes).runs(BASE.unregularized(), 2)
    found = Counter((run.config.seed, run.config.method) for run in runs)
    each = {"random": 2, "sre2l": 4, "whole": 1}
    assert found == {(seed, name): count for seed in (0, 1) for name, count in each.items()}
    assert [run.trial for run in runs] == list(range(len(runs)))


def test_single_arms_are_not_crossed_with_the_axes() -> None:
    runs = Design(axes={"ipc": (1, 5)}, single=[{"method": "whole"}]).runs(BASE, 1)
    assert [run.config.ipc for run in runs if run.config.method == "whole"] == [BASE.ipc] * 2
    assert len(runs) == 6


DESIGN = Design(
    axes={"ipc": (1, 10)},
    variants=[{"method": "sre2l"}, {"method": "mtt", "regularizer": "none"}],
    single=[{"method": "whole"}],
    settings={"evaluation.splits": ["test"], "ipc": 5},
)


def test_a_choice_becomes_an_axis() -> None:
    found = changed(DESIGN, "sre2l.lr=choice(0.1, 0.2)")
    assert found.axes == {"ipc": (1, 10), "sre2l.lr": (0.1, 0.2)}
    assert (found.variants, found.single) == (DESIGN.variants, DESIGN.single)


def test_a_choice_takes_the_place_of_an_axis_and_of_a_fixed_value() -> None:
    found = changed(DESIGN, "ipc=choice(2, 3)")
    assert found.axes == {"ipc": (2, 3)}
    assert found.settings == {"evaluation.splits": ["test"]}


def test_a_choice_takes_the_place_of_what_variants_say() -> None:
    found = changed(DESIGN, "method=choice(cda, dc)")
    assert found.axes == {"ipc": (1, 10), "method": ("cda", "dc")}
    assert found.variants == [{}, {"regularizer": "none"}]
    assert found.single == []


def test_a_plain_value_takes_the_place_of_an_axis_and_of_what_variants_say() -> None:
    found = changed(DESIGN, "ipc=7", "method=cda")
    assert found.axes == {}
    assert found.settings == {"evaluation.splits": ["test"], "ipc": 7, "method": "cda"}
    assert found.variants == [{}, {"regularizer": "none"}]
    assert found.single == []


def test_variants_that_become_the_same_are_one() -> None:
    found = changed(
        Design(axes={}, variants=[{"ipc": 1}, {"ipc": 10}, {"ipc": 1, "model.width": 8}]), "ipc=2"
    )
    assert found.variants == [{}, {"model.width": 8}]


def test_nothing_set_changes_nothing() -> None:
    assert DESIGN.changed({}) == DESIGN


@pytest.mark.parametrize("value", ["uniform(0, 1)", "loguniform(0.1, 1)", "int(1, 5)"])
def test_what_would_be_drawn_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(StudyError) as caught:
        changed(DESIGN, f"regularizer.h={value}")
    assert str(caught.value) == (
        "--set: regularizer.h takes a value or choice(…) here; nothing is drawn"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "random"},
        {"method": "random", "regularizer": "cure"},
        {"method": "mat", "regularizer": "pgd-at"},
        {"model.input": "zca", "regularizer": "cure"},
        {"method": "mtt", "regularizer": "none"},
    ],
)
def test_of_a_combination_without_meaning_only_the_control_is_left(settings: Facts) -> None:
    (run,) = Design(axes={}, variants=[settings]).runs(BASE, 1)
    assert run.control and not run.config.regularizer.active
    assert run.config.method == settings.get("method", BASE.method)
    assert not any(path.startswith("regularizer") for path in run.params)


def test_a_combination_without_meaning_does_not_take_the_others_along() -> None:
    axes = {"method": ("sre2l", "random"), "regularizer": ("curvature", "pgd-at")}
    runs = Design(axes=axes).runs(BASE, 1)
    found = [(run.config.method, run.config.regularizer.kind) for run in runs]
    assert found == [
        ("sre2l", "none"),
        ("sre2l", "curvature"),
        ("sre2l", "adversarial"),
        ("random", "none"),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ipc": 0}, "ipc: must be at least 1, got 0"),
        ({"sre2l.bn_wait": 1}, "sre2l.bn_wait: no such field"),
        ({"method": "nope"}, "method: must be one of"),
        ({"model.name": "convnet"}, "model.norm: sre2l matches BatchNorm statistics"),
    ],
)
def test_any_other_mistake_is_raised(settings: Facts, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Design(axes={}, variants=[settings]).runs(BASE, 1)


def test_a_changed_field_of_another_section_is_changed_in_the_control_too() -> None:
    control, ours = Design(axes={}, variants=[{"sre2l.bn_weight": 7}]).runs(BASE, 1)
    assert control.control and not ours.control
    assert control.config.sre2l.bn_weight == ours.config.sre2l.bn_weight == 7
    assert ours.config.unregularized() == control.config


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


def test_settings_of_a_user_hold_in_every_trial_of_a_study() -> None:
    design = changed(compare.design(PRESET), "ipc=3", "evaluation.eps=0.05")
    runs = design.runs(base_config(BASE, design.fixed, ()), 1)
    assert {(run.config.ipc, run.config.evaluation.eps) for run in runs} == {(3, 0.05)}
    assert len(runs) == 10


@pytest.mark.parametrize(
    "setting",
    [
        "regularizer.hh=choice(1, 2)",
        "regularizer.h=choice(-1, 0.1)",
        "regularizer=choice(foo, cure)",
    ],
)
def test_a_penalty_that_is_wrong_everywhere_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="regularizer"):
        changed(Design(), setting).runs(BASE, 1)


def test_a_weight_of_zero_is_the_control_and_no_second_one() -> None:
    runs = changed(Design(), "regularizer.weight=choice(0, 0.3)").runs(BASE, 1)
    assert [run.config.regularizer.active for run in runs] == [False, True]


@pytest.mark.parametrize(
    "setting", ["seed=7", "student.seed=1", "evaluation.seed=1", "seed=choice(0, 1)"]
)
def test_seeds_are_set_by_their_flag(setting: str) -> None:
    with pytest.raises(StudyError, match="--seeds"):
        changed(Design(), setting)


def test_a_section_that_a_user_sets_is_the_users_but_for_the_split() -> None:
    design = changed(Design(settings=confirmed(PRESET)), "evaluation=paper")
    base = base_config(BASE, design.fixed, ())
    assert base.evaluation == replace(EvaluationConfig.named("paper"), splits=("test",))


def test_only_networks_that_read_a_width_are_widened() -> None:
    design = scaling.design(PRESETS["cifar10"]())
    assert all("model.width" not in variant for variant in design.variants)
