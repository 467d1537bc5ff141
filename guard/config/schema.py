"""Frozen configuration dataclasses that check themselves and speak in dotted paths.

A field's type hint is its rule: `Annotated[float, at_least(0)]`, `Literal["a", "b"]`,
`tuple[str, ...]`, `int | None`, or another `Config`. Building, overriding and reading from JSON
all go through the same checks, so a config that exists is valid.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin
from typing import get_type_hints as _get_type_hints

from guard.config.rules import shown
from guard.errors import ConfigError


def _read_type_hints(cls: type) -> Mapping[str, Any]:
    return _get_type_hints(cls, include_extras=True)


type_hints: Callable[[type], Mapping[str, Any]] = functools.cache(_read_type_hints)


LATER: Mapping[str, bool] = {"later": True}
"""Metadata of a field that was added when addresses had been given: at its default, which is how it
was before, it says nothing (`Config.to_dict`), so that they stay."""


class Config:
    """Base of every configuration section. Subclasses are frozen, keyword-only dataclasses."""

    NAMED: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for name in field_names(type(self)):
            try:
                value = _coerce(type_hints(type(self))[name], getattr(self, name))
            except ConfigError as error:
                raise error.under(name) from None
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Rules that need more than one field. Raises ConfigError."""

    @classmethod
    def named(cls, name: str) -> Self:
        """The named setting of this section, e.g. `RegularizerConfig.named("cure")`. Raises
        ConfigError, which lists what there is."""
        if name not in cls.NAMED:
            raise ConfigError("", f"no setting is named {name!r}{_known(name, cls.NAMED)}")
        return cls(**cls.NAMED[name])

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as JSON has them (tuples become lists). What says nothing is left
        out: a section without fields, and a field of LATER at its default."""
        values = {name: getattr(self, name) for name in field_names(type(self))}
        silent = later(type(self)).items()
        return {
            name: _plain(value)
            for name, value in values.items()
            if not _is_empty(value) and (name, value) not in silent
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Missing fields take their defaults; unknown ones raise."""
        if not isinstance(values, Mapping):
            raise ConfigError("", f"must be an object with fields, got {shown(values)}")
        for name in values:
            _check_field(cls, name)
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(json.loads(text))

    def flat(self) -> dict[str, Any]:
        """`{"regularizer.h": 0.3, ...}`: every leaf by its dotted path."""
        return dict(_leaves(self))

    def stated(self) -> dict[str, Any]:
        """`flat` without what says nothing (`to_dict`)."""
        return dict(_leaves(self, silent=later))

    def override(self, values: Mapping[str, Any]) -> Self:
        """A copy with the dotted paths replaced; the rules judge the whole of it. A section takes a
        dict or the name of a setting; sections are set before the fields inside them. Raises
        ConfigError."""
        tree = self.to_dict()
        for path in sorted(values, key=lambda path: path.count(".")):
            _set(type(self), tree, path.split("."), values[path])
        return self.from_dict(tree)

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON of everything in this config."""
        return digest(self.to_dict())[:16]


def digest(value: Any) -> str:
    """SHA-256 (hex) of a plain value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_field_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


field_names: Callable[[type], tuple[str, ...]] = functools.cache(_read_field_names)


def _read_later(cls: type) -> Mapping[str, Any]:
    return {f.name: _default(f) for f in dataclasses.fields(cls) if f.metadata == LATER}


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


later: Callable[[type], Mapping[str, Any]] = functools.cache(_read_later)
"""The fields of LATER, with their defaults."""


def paths(cls: type[Config], prefix: str = "") -> Iterator[str]:
    """Every dotted path of a config class: sections and leaves."""
    for name in field_names(cls):
        section = _section(type_hints(cls)[name])
        if section is not None and not field_names(section):
            continue
        yield prefix + name
        if section is not None:
            yield from paths(section, f"{prefix}{name}.")


def is_list(cls: type[Config], path: str) -> bool:
    """Whether a dotted path of a config class is that of a list."""
    name, _, rest = path.partition(".")
    if name not in field_names(cls):
        return False
    hint = type_hints(cls)[name]
    section = _section(hint)
    if rest:
        return section is not None and is_list(section, rest)
    return _holds_list(hint)


def _holds_list(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _holds_list(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(_holds_list, get_args(hint)))
    return get_origin(hint) is tuple


def _leaves(
    config: Config, prefix: str = "", silent: Callable[[type], Mapping[str, Any]] = lambda cls: {}
) -> Iterator[tuple[str, Any]]:
    """silent: fields of a section that are left out at these values."""
    for name in field_names(type(config)):
        value = getattr(config, name)
        if (name, value) in silent(type(config)).items():
            continue
        if isinstance(value, Config):
            yield from _leaves(value, f"{prefix}{name}.", silent)
        else:
            yield prefix + name, _plain(value)


def _is_empty(value: Any) -> bool:
    return isinstance(value, Config) and not field_names(type(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _set(cls: type[Config], tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a path of the plain values of a `cls`."""
    name, *rest = path
    _check_field(cls, name)
    section = _section(type_hints(cls)[name])
    try:
        if not rest:
            by_name = section is not None and isinstance(value, str)
            value = section.named(value).to_dict() if section and by_name else _plain(value)
            tree[name] = dict(value) if section and isinstance(value, Mapping) else value
            return
        if section is None:
            raise ConfigError("", f"has no fields, so {'.'.join(path)!r} does not exist")
        if name not in tree:
            tree[name] = _plain(getattr(cls(), name))
        if tree[name] is None:
            tree[name] = section().to_dict()
        if not isinstance(tree[name], Mapping):
            raise ConfigError("", f"must be an object with fields, got {shown(tree[name])}")
        tree[name] = dict(tree[name])
        _set(section, tree[name], rest, value)
    except ConfigError as error:
        raise error.under(name) from None


def _check_field(cls: type, name: str) -> None:
    names = field_names(cls)
    if name not in names:
        raise ConfigError(name, f"no such field{_known(name, names)}")


def _known(name: str, names: Any) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{hint}; there are: {', '.join(names)}"


def _section(hint: Any) -> type[Config] | None:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = [option for option in options if isinstance(option, type)]
    return next((option for option in found if issubclass(option, Config)), None)


def _coerce(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *rules = get_args(hint)
        value = _coerce(inner, value)
        for rule in rules:
            rule.check(value)
        return value
    if origin is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(str(option) for option in get_args(hint))
            raise ConfigError("", f"must be one of {allowed}; got {shown(value)}")
        return value
    if origin in (Union, types.UnionType):
        inner = next(option for option in get_args(hint) if option is not type(None))
        return None if value is None else _coerce(inner, value)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ConfigError("", f"must be a list, got {shown(value)}")
        return tuple(_coerce(get_args(hint)[0], item) for item in value)
    if issubclass(hint, Config):
        return _coerce_section(hint, value)
    return _coerce_scalar(hint, value)


def _coerce_section(section: type[Config], value: Any) -> Config:
    if isinstance(value, section):
        return value
    return section.named(value) if isinstance(value, str) else section.from_dict(value)


def _coerce_scalar(kind: type, value: Any) -> Any:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_whole = is_whole or (isinstance(value, float) and value.is_integer())
    if kind is int and is_whole and abs(value) < 2**63:
        return int(value)
    if kind is float and (is_whole or isinstance(value, float)) and _fits_a_float(value):
        return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    names = {float: "a finite number", bool: "true or false", str: "text"}
    names[int] = "a whole number" + (" of at most 63 bits" if is_whole else "")
    raise ConfigError("", f"must be {names[kind]}, got {shown(value)}")


def _fits_a_float(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
