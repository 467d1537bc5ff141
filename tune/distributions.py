"""What a search draws a value from: distributions as people write them, and values of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Protocol

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from guard.errors import ConfigError
from tune.results.reading import parse_json

NUMERIC: dict[str, Callable[[Any, Any], BaseDistribution]] = {
    "uniform": lambda low, high: FloatDistribution(low, high),
    "loguniform": lambda low, high: FloatDistribution(low, high, log=True),
    "int": lambda low, high: IntDistribution(whole(low), whole(high)),
    "logint": lambda low, high: IntDistribution(whole(low), whole(high), log=True),
}
KINDS = (
    "choice(a, b, …), uniform(low, high), loguniform(low, high), int(low, high), logint(low, high)"
)


def whole(end: float) -> int:
    """Raises ValueError for a number that is none."""
    if int(end) != end:
        raise ValueError(f"both ends must be whole numbers, got {end:g}")
    return int(end)


def parse_value(text: str) -> Any:
    """A distribution, or a plain value (`plain`).

    Raises ConfigError for a distribution that cannot be.
    """
    call = re.fullmatch(r"\s*([a-z]+)\s*\((.*)\)\s*", text)
    if call is None:
        return plain(text)
    name, arguments = call[1], [plain(part.strip()) for part in call[2].split(",")]
    try:
        if name == "choice" and call[2].strip():
            return CategoricalDistribution(arguments)
        low, high = arguments
        if not all(isinstance(end, (int, float)) and math.isfinite(end) for end in (low, high)):
            raise ValueError("both ends must be numbers")
        return NUMERIC[name](low, high)
    except KeyError:
        raise ConfigError("", f"no distribution is named {name!r}; there are: {KINDS}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError("", f"{text} is no distribution ({error}); there are: {KINDS}") from None


def plain(text: str) -> Any:
    """JSON where the text is JSON, a number where it is a fraction (8/255), or the text itself."""
    fraction = re.fullmatch(r"(\d+(?:\.\d+)?)/([1-9]\d*)", text)
    if fraction is not None:
        return float(fraction[1]) / float(fraction[2])
    try:
        return parse_json(text)
    except ValueError:
        return text


class Suggests(Protocol):
    """The part of an Optuna trial that a space draws from."""

    @property
    def user_attrs(self) -> dict[str, Any]: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...


def suggested(trial: Suggests, path: str, distribution: BaseDistribution) -> Any:
    """A value of the path, which the trial draws."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(path, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, IntDistribution)
    return trial.suggest_int(path, distribution.low, distribution.high, log=distribution.log)


def extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Values that must be valid for the whole distribution to be."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return (distribution.low, distribution.high)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, (int, float)) and distribution.low <= value <= distribution.high


def nearest(distribution: BaseDistribution, value: Any) -> Any:
    """The value, if the distribution has it, or else a choice, or the nearer end."""
    if contains(distribution, value):
        return value
    ends = extremes(distribution)
    if isinstance(distribution, CategoricalDistribution) or not isinstance(value, (int, float)):
        return ends[0]
    return min(ends, key=lambda end: abs(end - value))


def spread(distribution: BaseDistribution, points: int) -> list[Any]:
    """`points` values from end to end, evenly on the distribution's own scale; or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if points < 2 or low == high:
        return [distribution.low]
    steps = [step / (points - 1) for step in range(points)]
    if distribution.log:
        values = [low ** (1 - step) * high**step for step in steps]
    else:
        values = [low + (high - low) * step for step in steps]
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return [distribution.low, *values[1:-1], distribution.high]


def describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({', '.join(map(str, distribution.choices))})"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "uniform" if isinstance(distribution, FloatDistribution) else "int"
    kind = "log" + kind if distribution.log else kind
    return f"{kind}({distribution.low:g}, {distribution.high:g})"
