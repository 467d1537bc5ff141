"""What a field of a configuration may be, beside its type."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from guard.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """An interval that a number must lie in; `open_low` excludes the lower end."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def check(self, value: float) -> None:
        """Raises ConfigError for a number outside."""
        above = value > self.low if self.open_low else value >= self.low
        if not (above and value <= self.high):
            raise ConfigError("", f"must be {self}, got {value}")

    def __str__(self) -> str:
        low = f"{'greater than' if self.open_low else 'at least'} {_number(self.low)}"
        return low if self.high == math.inf else f"{low} and at most {_number(self.high)}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of the names of a table."""

    table: Collection[str]

    def check(self, value: object) -> None:
        """Raises ConfigError, which lists the table, for another name."""
        if value not in self.table:
            raise ConfigError("", f"must be one of {', '.join(self.table)}; got {shown(value)}")


def at_least(low: float, at_most: float = math.inf) -> Bounds:
    return Bounds(low, at_most)


def above(low: float, at_most: float = math.inf) -> Bounds:
    return Bounds(low, at_most, open_low=True)


def shown(value: object) -> str:
    """What a message says of a value, whatever its length."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
