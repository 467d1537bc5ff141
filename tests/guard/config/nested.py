"""A section inside of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from guard.config.rules import above, at_least
from guard.config.schema import Config
from guard.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    width: Annotated[int, at_least(1)] = 2
    share: Annotated[float, above(0, at_most=1)] = 0.5
    kind: Literal["round", "square"] = "round"
    low: float = 0.0
    high: float = 1.0

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {"wide": {"width": 9, "kind": "square"}}

    def check(self) -> None:
        if self.low > self.high:
            raise ConfigError("low", f"must be at most high = {self.high}, got {self.low}")


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    name: str = "x"
    flag: bool = False
    tags: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    limit: Annotated[int, at_least(1)] | None = None
    inner: Inner = field(default_factory=Inner)
    extra: Inner | None = None


CHANGED = Outer(
    name="y",
    flag=True,
    tags=("a", "b"),
    sizes=(3,),
    limit=7,
    inner=Inner(width=5, share=0.25, kind="square", low=-1.5),
    extra=Inner(width=4),
)
