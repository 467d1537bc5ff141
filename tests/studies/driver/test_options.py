from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import IntDistribution

from guard.errors import ConfigError
from studies.driver.options import SECTIONS, TRIALS_ONLY, Options, RunConfig, chosen
from studies.driver.settings import parse_settings
from studies.presets import PRESETS

PRESET = PRESETS["digits"]()


def of(*settings: str, sections: tuple[str, ...] = SECTIONS) -> Options:
    return chosen(PRESET, parse_settings(settings), sections)


def test_the_defaults_are_the_presets() -> None:
    found = of()
    assert found.confirm == PRESET.confirm and found.confirm.configurations == 2
    assert (found.search.seed, found.search.max_clean_drop) == (0, 0.03)
    assert found.run == RunConfig(concurrent=0, verbose=False)


def test_each_field_is_set_by_its_path_and_the_others_stay() -> None:
    found = of(
        "search.seed=7",
        "search.max_clean_drop=1/50",
        "confirm.seeds=0",
        "confirm.attacks=pgd5, mim",
        "run.concurrent=2",
        "run.verbose=true",
        "squeeze.epochs=3",
    )
    assert (found.search.seed, found.search.max_clean_drop) == (7, 0.02)
    assert (found.confirm.seeds, found.confirm.attacks) == (0, ("pgd5", "mim"))
    assert found.confirm.configurations == PRESET.confirm.configurations
    assert found.run == RunConfig(concurrent=2, verbose=True)


def test_a_lone_attack_is_a_list_and_a_suite_is_known() -> None:
    assert of("confirm.attacks=standard").confirm.attacks == ("standard",)


@pytest.mark.parametrize("path", Options().listed(SECTIONS))
def test_nothing_is_drawn(path: str) -> None:
    with pytest.raises(ConfigError, match="takes a plain value") as caught:
        chosen(PRESET, {path: IntDistribution(1, 2)}, SECTIONS)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("setting", "sections", "message"),
    [
        ("search.seed=1", TRIALS_ONLY, "search.seed: nothing is searched here"),
        ("confirm.seeds=1", TRIALS_ONLY, "confirm.seeds: nothing is searched here that could be"),
        ("run.verbose=true", (), "run.verbose: no trials are run here"),
        (
            "run.sleep=1",
            TRIALS_ONLY,
            "run.sleep: no such field; there are: concurrent, stage_limit",
        ),
        (
            "search=1",
            SECTIONS,
            "search: is set field by field; there are: search.seed, search.st",
        ),
        ("confirm.attacks=pgd3,x", SECTIONS, "confirm.attacks[1]: no attack is named 'x'"),
        ("search.max_clean_drop=-0.1", SECTIONS, "search.max_clean_drop: must be at least 0 and"),
    ],
)
def test_a_field_that_cannot_be_is_one_line(
    setting: str, sections: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        of(setting, sections=sections)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_the_fields_of_a_section_are_listed_with_their_values() -> None:
    expected: dict[str, Any] = {
        "run.concurrent": 3,
        "run.stage_limit": 0.0,
        "run.verbose": False,
        "tracking.experiment": "mine",
        "tracking.largest_set": 256,
    }
    assert of("run.concurrent=3", "tracking.experiment=mine").listed(TRIALS_ONLY) == expected
    assert set(of().listed(SECTIONS)) > set(expected)
