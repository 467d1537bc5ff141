from __future__ import annotations

from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from guard.errors import ConfigError
from tune.distributions import describe, nearest, parse_value, spread


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        ("true", True),
        ("cure", "cure"),
        ('["pgd20", "mim"]', ["pgd20", "mim"]),
        ("8/255", 8 / 255),
        ("0.5/3", 0.5 / 3),
        ("0/255", 0.0),
        ("a/b", "a/b"),
        ("1/0", "1/0"),
        ("1/2/3", "1/2/3"),
        ("-1/255", "-1/255"),
        ("1/255, 2/255", "1/255, 2/255"),
        ("runs/2", "runs/2"),
        ("choice(1, 10)", CategoricalDistribution((1, 10))),
        ("choice(1/255, 2/255)", CategoricalDistribution((1 / 255, 2 / 255))),
        ("choice(a/b, 1/0)", CategoricalDistribution(("a/b", "1/0"))),
        ("uniform(1/255, 8/255)", FloatDistribution(1 / 255, 8 / 255)),
        ("loguniform(1/255, 8/255)", FloatDistribution(1 / 255, 8 / 255, log=True)),
        ("choice(none, cure)", CategoricalDistribution(("none", "cure"))),
        ("uniform(0, 1)", FloatDistribution(0, 1)),
        ("loguniform(1e-3, 1)", FloatDistribution(1e-3, 1, log=True)),
        ("int(1, 5)", IntDistribution(1, 5)),
        ("logint(1, 50)", IntDistribution(1, 50, log=True)),
    ],
)
def test_values_and_distributions_are_read(text: str, value: Any) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "normal(0, 1)",
        "uniform(1)",
        "uniform(a, b)",
        "loguniform(0, 1)",
        "uniform(2, 1)",
        "uniform(0, 1/0)",
        "int(1.5, 3)",
        "logint(1, 3.5)",
        "choice()",
    ],
)
def test_what_is_no_distribution_says_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError, match=r"choice\(a, b, …\), uniform\(low, high\)"):
        parse_value(text)


@pytest.mark.parametrize(
    ("distribution", "value", "expected"),
    [
        (FloatDistribution(1, 3), 2.0, 2.0),
        (FloatDistribution(1, 3), 0.1, 1),
        (FloatDistribution(1, 3), 9, 3),
        (FloatDistribution(1, 3), None, 1),
        (CategoricalDistribution(("a", "b")), "b", "b"),
        (CategoricalDistribution(("a", "b")), "c", "a"),
    ],
)
def test_the_nearest_value_is_one_of_the_distributions(
    distribution: BaseDistribution, value: Any, expected: Any
) -> None:
    assert nearest(distribution, value) == expected


def test_spread_is_even_on_the_distributions_own_scale() -> None:
    assert spread(FloatDistribution(0, 1), 3) == [0, 0.5, 1]
    assert spread(FloatDistribution(0.01, 1, log=True), 3) == pytest.approx([0.01, 0.1, 1])
    assert spread(IntDistribution(1, 3), 5) == [1, 2, 3]
    assert spread(CategoricalDistribution(("a", "b")), 9) == ["a", "b"]


@pytest.mark.parametrize("text", ["choice(1, 10)", "loguniform(0.001, 100)", "int(1, 5)"])
def test_a_description_reads_back_as_the_distribution(text: str) -> None:
    assert describe(parse_value(text)) == text
