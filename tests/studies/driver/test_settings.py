from __future__ import annotations

import pytest

from guard.config import EvaluationConfig
from guard.errors import UserError
from studies.driver.settings import overridden, parse_settings, search_space
from studies.presets import PRESETS
from tune.confirmation import Confirmation
from tune.space import SearchSpace, configured


def space(settings: list[str], data: str | None = None) -> SearchSpace:
    return search_space(PRESETS["digits"](), parse_settings(settings), data)


def test_a_field_fixed_inside_a_searched_section_holds_for_all_its_choices() -> None:
    made = space(["regularizer=choice(curvature, gradient-norm)", "regularizer.weight=0.7"])
    assert "regularizer.weight" in made.distributions
    configs = [configured(made.base, params) for params in made.grid(1)]
    assert {config.regularizer.kind for config in configs} == {"curvature", "gradient-norm"}
    assert {config.regularizer.weight for config in configs} == {0.7}


def test_a_fixed_value_leaves_the_space_and_a_distribution_joins_it() -> None:
    made = space(["regularizer.h=0.5", "sre2l.bn_weight=loguniform(0.01, 1)"])
    assert set(made.distributions) == {"method", "ipc", "regularizer.weight", "sre2l.bn_weight"}
    assert made.base.regularizer.h == 0.5


def test_a_named_penalty_fixes_all_of_it() -> None:
    made = space(["regularizer=cure"])
    assert set(made.distributions) == {"method", "ipc"}
    assert made.base.regularizer.weight == 4


def test_a_named_penalty_and_a_search_inside_it() -> None:
    made = space(["regularizer=cure", "regularizer.weight=loguniform(1, 8)"])
    assert set(made.distributions) == {"method", "ipc", "regularizer.weight"}


def test_text_with_commas_is_a_list_and_data_is_a_path() -> None:
    made = space(["evaluation.attacks=pgd5, mim"], data="/somewhere")
    assert made.base.evaluation.attacks == ("pgd5", "mim")
    assert made.base.data.path == "/somewhere"


def test_the_searched_methods_and_not_the_presets_own_decide_what_fits() -> None:
    made = space(["method=choice(dc, mtt)", "model.name=convnet"])
    assert made.base.method == "dc"
    assert space(["method=choice(random, dc)"]).base.method == "dc"
    with pytest.raises(UserError, match="cda matches BatchNorm"):
        space(["method=choice(cda)", "model.name=convnet"])


def test_any_config_reads_a_list_from_text_or_a_lone_value() -> None:
    changed = overridden(Confirmation(), {"attacks": "pgd5, mim", "seeds": 4})
    assert changed == Confirmation(attacks=("pgd5", "mim"), seeds=4)
    assert overridden(EvaluationConfig(), {"more_eps": 0.2}).more_eps == (0.2,)


def test_a_list_inside_a_section_that_was_empty_reads_text_too() -> None:
    made = space(["sre2l.committee.teachers=own,pgd-at", "regularizer.h_ramp=0.1"]).base
    assert made.sre2l.committee is not None
    assert made.sre2l.committee.teachers == ("own", "pgd-at")
    assert made.regularizer.h_ramp == (0.1,)


def test_null_is_no_list() -> None:
    assert space(["sre2l.committee=null"]).base.sre2l.committee is None
